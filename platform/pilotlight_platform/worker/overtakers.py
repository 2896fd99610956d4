"""Requests that came before the attach order that they are meant for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Overtakers:
    """They wait until their order comes, is refused, or has not come for *grace_s*.

    Lives on one event loop.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._told = asyncio.Condition()
        self._refused_s: dict[str, float] = {}  # revisions refused within the last grace_s

    async def wait(self, revision_id: str, is_here: Callable[[], bool]) -> None:
        """Returns at once if *is_here*, or if an order for the revision was just refused."""
        if is_here():
            return
        async with self._told:
            try:
                async with asyncio.timeout(self._grace_s):
                    await self._told.wait_for(lambda: is_here() or self._was_refused(revision_id))
            except TimeoutError:
                pass

    async def order_taken(self, revision_id: str) -> None:
        self._refused_s.pop(revision_id, None)
        await self._tell()

    async def order_refused(self, revision_id: str) -> None:
        """Nothing comes for those who wait: they are to be routed again."""
        self._refused_s = {
            known: at_s for known, at_s in self._refused_s.items() if self._new(at_s)
        }
        self._refused_s[revision_id] = time.monotonic()
        await self._tell()

    def _was_refused(self, revision_id: str) -> bool:
        at_s = self._refused_s.get(revision_id)
        return at_s is not None and self._new(at_s)

    def _new(self, at_s: float) -> bool:
        return time.monotonic() - at_s < self._grace_s

    async def _tell(self) -> None:
        async with self._told:
            self._told.notify_all()
