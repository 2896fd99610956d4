"""The skeletons that stand in a worker: built once per revision, dropped when nobody needs them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pilotlight_loader import LoaderError
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.rehearsal import rehearse
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import AttachError, PlatformError


class Skeletons:
    """By revision. Lives on one event loop; they are built in threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._building: dict[str, asyncio.Task[Skeleton]] = {}
        self._forgotten: set[str] = set()  # not live any more, but still attached

    async def prepare(self, revision_id: str, path: str) -> None:
        """Returns when it stands. Idempotent. Raises AttachError with the reason."""
        self._forgotten.discard(revision_id)
        await self.built(revision_id, path)

    async def built(self, revision_id: str, path: str) -> Skeleton:
        """The same for one that may be forgotten already. Raises AttachError."""
        task = self._building.get(revision_id)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.create_task(asyncio.to_thread(self._build, Path(path)))
            self._building[revision_id] = task
        try:
            return await asyncio.shield(task)
        except (LoaderError, PlatformError, OSError, ValueError) as error:
            raise AttachError(f"revision {revision_id}: {error}") from error

    def forget(self, revision_id: str, *, attached: bool) -> None:
        """The revision is no longer live: drop it now, or when it is no longer *attached*."""
        if attached:
            self._forgotten.add(revision_id)
        else:
            self._building.pop(revision_id, None)

    def detached(self, revision_id: str) -> None:
        if revision_id in self._forgotten:
            self._forgotten.discard(revision_id)
            self._building.pop(revision_id, None)

    def _build(self, path: Path) -> Skeleton:
        skeleton = Skeleton.load(path)
        rehearse(self._engine, skeleton)
        return skeleton
