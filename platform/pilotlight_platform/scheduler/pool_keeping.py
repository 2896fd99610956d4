"""The worker pool kept at its size: Serve is told, and its choice of whom to stop is followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pilotlight_autoscaler import PoolTarget
from pilotlight_platform.errors import StoreError
from pilotlight_platform.running import running_workers
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.pool_keeper import Member, PoolKeeper

logger = logging.getLogger("pilotlight.scheduler")

_REPEAT_S = 1.0  # Serve's policy holds what it has when it hears nothing for 5 s
_GRACE_S = 10.0  # the workers of an earlier scheduler introduce themselves within a second

Publish = Callable[[int, bool], Awaitable[None]]  # (workers, at_least)


class PoolKeeping:
    """Lives on the scheduler's event loop; *step* asks it to decide again."""

    def __init__(
        self, keeper: PoolKeeper, cluster: Cluster, publish: Publish, step: Callable[[], None]
    ) -> None:
        self.following: dict[str, asyncio.Task[None]] = {}  # reports, by worker
        self._keeper = keeper
        self._cluster = cluster
        self._publish = publish
        self._step = step
        self._running: frozenset[str] = frozenset()
        self._stopping: set[str] = set()  # Serve is stopping them, foreseen or not
        self._changed = asyncio.Event()
        self._planned: object = None  # what the plan was made of
        self._told: int | None = None
        self._tell = asyncio.Event()
        self._began_s = asyncio.get_running_loop().time()
        self._tasks = (
            asyncio.create_task(self._repeat()),
            asyncio.create_task(self._watch()),
        )

    def decided(self, pool: PoolTarget) -> None:
        """Another size is wanted."""
        logger.info("pool workers=%d reason=%s", pool.workers, pool.reason)
        self._keeper.want = pool.workers
        asyncio.get_running_loop().call_soon(self._step)

    def update(self) -> bool:
        """Choose anew who leaves; whether that is somebody else than before."""
        cluster, keeper = self._cluster, self._keeper
        self._stopping &= cluster.workers.keys()
        seen = (cluster.version, keeper.want, frozenset(self._stopping))
        if seen == self._planned:
            return False
        self._planned = seen
        keeper.plan(
            [
                Member(worker_id, worker.info.node_id, worker.busy)
                for worker_id, worker in cluster.workers.items()
                if worker_id not in self._stopping
            ]
        )
        gone = {each for each in self._stopping if not cluster.workers[each].busy}
        for worker_id in keeper.emptied | gone:
            # Serve waits for every open call of a worker that it stops, and counts it as load.
            if worker_id in self.following:
                self.following[worker_id].cancel()
        leaving = keeper.leaving | self._stopping
        changed = leaving != cluster.leaving
        cluster.leaving = leaving
        if keeper.target != self._told:
            self._tell.set()
        self._changed.set()
        self._changed = asyncio.Event()
        return changed

    async def stays(self, worker_id: str) -> bool:
        """Wait until a worker that was to leave is to stay after all, or has gone."""
        while worker_id in self._running:
            if worker_id not in self._cluster.leaving:
                return True
            await self._changed.wait()
        return False

    async def _watch(self) -> None:
        async for running in running_workers.values():
            if running is None:
                continue
            self._stopping |= self._running - running
            self._running = running
            self._changed.set()
            self._changed = asyncio.Event()
            self._step()

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._tell.clear()
            self._told = self._keeper.target
            if self._told is not None:
                at_least = loop.time() - self._began_s < _GRACE_S
                try:
                    await self._publish(self._told, at_least)
                except StoreError as error:
                    logger.warning("pool_untold reason=%s", error)
                    await asyncio.sleep(_REPEAT_S)
            try:
                async with asyncio.timeout(_REPEAT_S):
                    await self._tell.wait()
            except TimeoutError:
                pass
