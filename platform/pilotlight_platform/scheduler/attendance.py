"""The workers that are there: each introduces itself, then its reports are followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pilotlight_platform.errors import PlatformError, ReplicaGoneError
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.foretelling import Foretelling
from pilotlight_platform.scheduler.orders import Orders
from pilotlight_platform.scheduler.pool_keeping import PoolKeeping
from pilotlight_platform.scheduler.preparing import Preparing
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import WorkerInfo, WorkerReport
from pilotlight_platform.worker_pool import WorkerPool

logger = logging.getLogger("pilotlight.scheduler")

_JOIN_TIMEOUT_S = 30.0  # Serve lists a new replica for routing a little after it has started
_JOIN_RETRY_S = 0.05


class Attendance:
    """Lives on the scheduler's event loop; *step* asks it to decide again."""

    def __init__(
        self,
        cluster: Cluster,
        told: Told,
        workers: Callable[[], WorkerPool],
        preparing: Preparing,
        foretelling: Foretelling,
        orders: Orders,
        pool_keeping: PoolKeeping,
        step: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._told = told
        self._workers = workers
        self._preparing = preparing
        self._foretelling = foretelling
        self._orders = orders
        self._pool_keeping = pool_keeping
        self._step = step

    async def attend(self, info: WorkerInfo) -> None:
        """A worker's introduction; returns when the worker's reports have stopped."""
        logger.info("worker_joined id=%s pid=%d", info.worker_id, info.pid)
        try:
            while await self._followed(info):
                pass
        except PlatformError as error:
            logger.warning("worker_lost id=%s reason=%s", info.worker_id, error)
        finally:
            if self._cluster.lose(info.worker_id):
                self._step()

    async def _followed(self, info: WorkerInfo) -> bool:
        """Follow until its reports stop; True if they were closed, and it stays after all."""
        following = self._pool_keeping.following
        task = following[info.worker_id] = asyncio.create_task(self._follow(info))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            following.pop(info.worker_id, None)
        if not task.cancelled():
            task.result()  # raises what it raised
            return False
        return await self._pool_keeping.stays(info.worker_id)

    async def _follow(self, info: WorkerInfo) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _JOIN_TIMEOUT_S
        while True:
            try:
                async for report in self._workers().reports(info.worker_id):
                    self._observe(info, report)
                return
            except ReplicaGoneError:
                if info.worker_id in self._cluster.workers or loop.time() > deadline:
                    raise
                await asyncio.sleep(_JOIN_RETRY_S)

    def _observe(self, info: WorkerInfo, report: WorkerReport) -> None:
        worker = self._cluster.workers.get(info.worker_id)
        if worker is None:
            worker = self._cluster.join(info)
            self._preparing.all_in(worker)
            self._foretelling.renew_soon()
        worker.observe(report)
        self._told.measured(worker)
        for replica in worker.report.replicas:  # an older report than that was not taken
            if replica.ongoing:
                self._told.arrived(replica.model, now(), 1, warm=True)
                if replica.phase == "attaching":
                    waiting = self._cluster.waiting_inside(replica.model)
                    self._told.joined(replica.model, now(), waiting)
            elif replica.idle_since_s is not None and self._cluster.at_rest(replica.model):
                self._told.rested(replica.model, replica.idle_since_s)
        self._orders.finish_drains(worker)
        self._step()
