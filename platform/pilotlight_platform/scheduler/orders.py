"""What the policy has decided, ordered of the workers; how it went is noted in the picture."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pilotlight_autoscaler import Attach, Decision, Detach, Drain
from pilotlight_platform.errors import (
    EvictionRefusedError,
    PlatformError,
    ReplicaGoneError,
    WorkerLostError,
)
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.live_model import Model
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import AttachOrder
from pilotlight_platform.worker_pool import WorkerPool, within

logger = logging.getLogger("pilotlight.scheduler")

_ATTACH_TIMEOUT_S = 600.0  # 13 GB from a slow disk; a dead worker is noticed at once
_DETACH_TIMEOUT_S = 30.0
_REFUSED_WAIT_S = 1.0  # a worker's report is at most 0.1 s late, and its hop


class Orders:
    """Lives on the scheduler's event loop; *step* asks it to decide again."""

    def __init__(
        self,
        cluster: Cluster,
        told: Told,
        workers: Callable[[], WorkerPool],
        tasks: Tasks,
        step: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._told = told
        self._workers = workers
        self._tasks = tasks
        self._step = step

    def give(self, decision: Decision) -> None:
        """Order everything in *decision*; returns at once."""
        for attach in decision.attach:
            self._order_attach(attach)
        for detach in decision.detach:
            self._order_detach(detach)
        for drain in decision.drain:
            self._order_drain(drain)

    def finish_drains(self, worker: WorkerState) -> None:
        """Detach what was to be drained and has no stream left."""
        for revision_id in worker.drained():
            self._send_detach(worker, revision_id)

    def _order_attach(self, attach: Attach) -> None:
        model = self._cluster.models[attach.model]
        revision = model.record.revision
        worker = self._cluster.workers[attach.worker_id]
        order = AttachOrder(attach.model, revision.id, revision.path, revision.nbytes, attach.evict)
        worker.order(order, now())
        logger.info(
            "attach model=%s worker=%s reason=%s", attach.model, attach.worker_id, attach.reason
        )
        self._tasks.spawn(self._attach(worker, model, order))

    async def _attach(self, worker: WorkerState, model: Model, order: AttachOrder) -> None:
        began_s, started = now(), False
        worker_id = worker.info.worker_id
        try:
            report = await within(_ATTACH_TIMEOUT_S, self._workers().attach(worker_id, order))
        except EvictionRefusedError as error:
            # The report that shows the busy victim is under way: decide on that one.
            logger.info("attach_refused model=%s reason=%s", order.model, error)
            await self._shown_busy(worker, order)
        except (WorkerLostError, ReplicaGoneError) as error:
            logger.warning("worker_lost id=%s reason=%s", worker_id, error)
            if self._cluster.workers.get(worker_id) is worker:
                self._cluster.lose(worker_id)
        except (PlatformError, TimeoutError) as error:
            model.attach_failed(str(error) or "attaching took too long", now())
            logger.error("attach_failed model=%s reason=%s", order.model, model.last_error)
        else:
            model.attached()
            started = True
            worker.observe(report)
        finally:
            worker.ordered(order.revision_id, began_s if started else None)
            self._told.measured(worker)
            self._step()

    async def _shown_busy(self, worker: WorkerState, order: AttachOrder) -> None:
        try:
            async with asyncio.timeout(_REFUSED_WAIT_S):
                await worker.shown_busy(order.evict)
        except TimeoutError:
            pass

    def _order_detach(self, detach: Detach) -> None:
        logger.info(
            "detach model=%s worker=%s reason=%s", detach.model, detach.worker_id, detach.reason
        )
        self._send_detach(self._cluster.workers[detach.worker_id], detach.revision_id)

    def _order_drain(self, drain: Drain) -> None:
        logger.info(
            "drain model=%s worker=%s reason=%s", drain.model, drain.worker_id, drain.reason
        )
        self._cluster.workers[drain.worker_id].drain(drain.revision_id)

    def _send_detach(self, worker: WorkerState, revision_id: str) -> None:
        worker.leave(revision_id)
        self._tasks.spawn(self._detach(worker, revision_id))

    async def _detach(self, worker: WorkerState, revision_id: str) -> None:
        try:
            detached = self._workers().detach(worker.info.worker_id, revision_id)
            worker.observe(await within(_DETACH_TIMEOUT_S, detached))
        except (PlatformError, TimeoutError) as error:
            logger.warning("detach_failed revision=%s reason=%s", revision_id, error)
        finally:
            worker.left(revision_id)
            self._step()
