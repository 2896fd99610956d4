"""The bounds of the worker pool: those that the platform started with, or others given since."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ValidationError

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.errors import PoolUnchangeableError, StoreError
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.settings import Settings

logger = logging.getLogger("pilotlight.scheduler")

_SETTLE_MIN_S = 0.5
_SETTLE_MAX_S = 30.0

Write = Callable[[bytes], Awaitable[None]]


class _Saved(BaseModel):
    life: str
    pool: PoolConfig


def saved_pool(saved: bytes | None, life: str) -> PoolConfig | None:
    """What was set while this platform has been up; None if nothing, or it cannot be read.

    The file that is given to the next `up` decides anew: *life* is another then.
    """
    if saved is None:
        return None
    try:
        found = _Saved.model_validate_json(saved)
    except ValidationError as error:
        logger.error("pool_refused reason=%s", error)
        return None
    return found.pool if found.life == life else None


class PoolSettings:
    """Lives on the scheduler's event loop; *changed* is called with what holds from then on."""

    def __init__(
        self,
        settings: Settings,
        config: PoolConfig,
        life: str,
        write: Write,
        tasks: Tasks,
        changed: Callable[[PoolConfig], None],
    ) -> None:
        self.config = config
        self.fixed = not settings.elastic
        self.most_workers = settings.most_workers
        self._life = life
        self._write = write
        self._tasks = tasks
        self._changed = changed
        self._changing = asyncio.Lock()
        self._settling = False  # the store may hold other bounds than these

    async def configure(self, config: PoolConfig) -> None:
        """Raises PoolUnchangeableError, StoreError; nothing has changed then."""
        self.check(config)
        await self._tasks.unbroken(self._configure(config))

    async def _configure(self, config: PoolConfig) -> None:
        async with self._changing:
            try:
                await self._save(config)
            except StoreError:
                if not self._settling:
                    self._settling = True
                    self._tasks.spawn(self._settle())
                raise
            self.config = config
            self._changed(config)

    async def _save(self, config: PoolConfig) -> None:
        saved = {"life": self._life, "pool": config.model_dump(mode="json")}
        await self._write(json.dumps(saved).encode())

    async def _settle(self) -> None:
        """A write without an answer may still be carried out: save what holds until it is taken."""
        delay_s = _SETTLE_MIN_S
        while self._settling:
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _SETTLE_MAX_S)
            async with self._changing:
                try:
                    await self._save(self.config)
                except StoreError as error:
                    logger.warning("pool_unsettled reason=%s", error)
                else:
                    self._settling = False

    def check(self, config: PoolConfig) -> None:
        """Raises PoolUnchangeableError."""
        if self.fixed:
            raise PoolUnchangeableError(
                f"This platform was started with a fixed pool of {self.most_workers} workers: "
                "start it with `pilotlight up --cluster` and a file whose min_workers is below "
                "its max_workers."
            )
        if config.max_workers > self.most_workers:
            raise PoolUnchangeableError(
                f"max_workers: {config.max_workers} is above the {self.most_workers} that the "
                "platform was started with, which its cores were shared out among: start it anew "
                "for more."
            )
