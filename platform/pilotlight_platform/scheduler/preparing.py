"""Skeletons of live revisions, built in workers before any request and dropped after the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pilotlight_platform.errors import AttachError, DeployError, PlatformError, WorkerLostError
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.model import Revision
from pilotlight_platform.worker_pool import WorkerPool, within

logger = logging.getLogger("pilotlight.scheduler")

_PREPARE_TIMEOUT_S = 120.0
_FORGET_TIMEOUT_S = 30.0


class Preparing:
    """Lives on the scheduler's event loop."""

    def __init__(self, cluster: Cluster, workers: Callable[[], WorkerPool], tasks: Tasks) -> None:
        self._cluster = cluster
        self._workers = workers
        self._tasks = tasks

    def all_in(self, worker: WorkerState) -> None:
        """Begin to build every live revision's skeleton in a worker that has come."""
        self._tasks.spawn(self._all_in(worker))

    async def everywhere(self, revision: Revision) -> None:
        """Build it in all workers. Raises DeployError if one of them cannot."""
        workers = list(self._cluster.workers.values())
        outcomes = await asyncio.gather(
            *(self._prepare(worker, revision.id, revision.path) for worker in workers),
            return_exceptions=True,
        )
        for outcome in outcomes:
            # A worker that has died meanwhile is no reason against the model.
            if isinstance(outcome, AttachError | TimeoutError):
                raise DeployError(f"a worker cannot prepare it: {outcome}") from outcome

    def late(self, revision: Revision) -> None:
        """The same for the workers that came meanwhile, without waiting."""
        for worker in self._cluster.workers.values():
            self._tasks.spawn(self._late(worker, revision))

    def retire(self, revision: Revision) -> None:
        """Drop the revision's skeleton in all workers, unless another model has it."""
        if self._cluster.is_live(revision.id):
            return
        for worker_id in self._cluster.workers:
            self._tasks.spawn(self._forget(worker_id, revision.id))

    async def _all_in(self, worker: WorkerState) -> None:
        for revision_id, path in self._cluster.live_revisions().items():
            if not self._cluster.is_live(revision_id):  # deleted meanwhile
                continue
            try:
                await self._prepare(worker, revision_id, path)
            except WorkerLostError:
                return
            except (PlatformError, TimeoutError) as error:
                logger.error("prepare_failed revision=%s reason=%s", revision_id, error)

    async def _late(self, worker: WorkerState, revision: Revision) -> None:
        try:
            await self._prepare(worker, revision.id, revision.path)
        except (PlatformError, TimeoutError) as error:
            logger.error("prepare_failed revision=%s reason=%s", revision.id, error)

    async def _prepare(self, worker: WorkerState, revision_id: str, path: str) -> None:
        prepared = self._workers().prepare(worker.info.worker_id, revision_id, path)
        await within(_PREPARE_TIMEOUT_S, prepared)
        if self._cluster.is_live(revision_id):
            self._cluster.nodes.prepared(worker.info.node_id, revision_id)

    async def _forget(self, worker_id: str, revision_id: str) -> None:
        try:
            await within(_FORGET_TIMEOUT_S, self._workers().forget(worker_id, revision_id))
        except (PlatformError, TimeoutError) as error:
            logger.warning("forget_failed worker=%s reason=%s", worker_id, error)
