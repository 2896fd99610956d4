"""Admission: each request gets a slot on a replica, waits in a bounded queue, or is refused."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from pilotlight_platform.errors import (
    ColdStartTimeoutError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    PlatformError,
    QueueFullError,
)
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.model import ModelRecord

logger = logging.getLogger("pilotlight.gateway")

_REASSERT_S = 1.0

PlaceCall = Callable[[str, int, int], Awaitable[Route]]  # (model, queued, running) -> route


@dataclass(frozen=True, slots=True)
class Slot:
    """One request's place on one replica."""

    worker_id: str
    record: ModelRecord
    ready: bool  # False: the replica is still attaching

    @property
    def replica(self) -> tuple[str, str]:
        """Worker and revision: an old revision's streams take no slot of the new one."""
        return self.worker_id, self.record.revision.id


@dataclass(slots=True)
class _Queue:
    """One model's waiting requests, oldest first, and its running ones by worker."""

    waiting: deque[asyncio.Future[Slot]] = field(default_factory=deque)
    running: Counter[tuple[str, str]] = field(default_factory=Counter)  # (worker, revision)
    placing: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # one more waits, or none


class Admission:
    """Hands out slots from the routing table; asks the scheduler for replicas while any wait.

    Lives on one event loop. A slot is taken without a call when a replica has room.
    """

    def __init__(self, place: PlaceCall) -> None:
        self._place = place
        self._table = RoutingTable(-1)  # none yet
        self._queues: dict[str, _Queue] = {}

    @property
    def table(self) -> RoutingTable:
        return self._table

    def update(self, table: RoutingTable) -> None:
        """Take over a newer routing table and serve whom it helps."""
        if table.version < self._table.version:
            return
        self._table = table
        for name, queue in list(self._queues.items()):
            if queue.waiting:
                self._serve(name, queue)
            elif not queue.running:
                del self._queues[name]

    def forget_version(self) -> None:
        """The scheduler restarts and counts from zero again; its next table is the newest."""
        self._table = RoutingTable(-1, self._table.routes, self._table.workers)

    def route(self, name: str) -> Route:
        """The live model of that name. Raises ModelNotFoundError, or OverloadedError if unknown."""
        route = self._table.routes.get(name)
        if route is None and self._table.version < 0:
            raise OverloadedError("The scheduler is not reached: which models there are is unknown")
        if route is None:
            raise ModelNotFoundError(
                f"There is no model {name!r}. `pilotlight list` or GET /v1/models shows them."
            )
        return route

    def queued(self, name: str) -> int:
        queue = self._queues.get(name)
        return len(queue.waiting) if queue else 0

    def mark_ready(self, name: str, worker_id: str) -> None:
        """A replica has answered: it is ready, whatever the table still says."""
        route = self._table.routes.get(name)
        if route is not None:
            replicas = tuple(
                RouteReplica(worker_id, True) if r.worker_id == worker_id else r
                for r in route.replicas
            )
            self._table.routes[name] = Route(route.record, replicas, route.waiting_for)

    def forget_replica(self, name: str, worker_id: str) -> None:
        """A replica turned out to be gone: do not route there until a newer table says so."""
        route = self._table.routes.get(name)
        if route is not None:
            left = tuple(r for r in route.replicas if r.worker_id != worker_id)
            self._table.routes[name] = Route(route.record, left, route.waiting_for)

    async def acquire(self, name: str, timeout_s: float | None = None) -> Slot:
        """A slot for one more request; give it back with ``release``.

        Waits *timeout_s*, by default the model's ``cold_start_timeout_s``.

        Raises ModelNotFoundError, QueueFullError, ColdStartTimeoutError, or what placing raised.
        """
        limits = self.route(name).record.spec.autoscaling
        timeout_s = limits.cold_start_timeout_s if timeout_s is None else timeout_s
        queue = self._queues.setdefault(name, _Queue())
        if not queue.waiting:
            slot = self._free_slot(name, queue)
            if slot is not None:
                queue.running[slot.replica] += 1
                return slot
        if len(queue.waiting) >= limits.max_queued_requests:
            raise QueueFullError(
                f"{len(queue.waiting)} requests wait for model {name!r} already "
                "(autoscaling.max_queued_requests); try again in a moment.",
                retry_after_s=1.0,
            )
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        queue.waiting.append(waiter)
        queue.changed.set()
        if queue.placing is None:
            queue.placing = asyncio.create_task(self._keep_placing(name, queue))
        slot = None
        try:
            async with asyncio.timeout(timeout_s):
                slot = await waiter
            return slot
        except TimeoutError:
            raise self._timed_out(name, limits.cold_start_timeout_s) from None
        finally:
            if slot is None:
                self._abandon(name, queue, waiter)

    def release(self, name: str, slot: Slot) -> None:
        """Give a slot back; the oldest waiting request takes it."""
        queue = self._queues.get(name)
        if queue is None:
            return
        queue.running[slot.replica] -= 1
        if queue.running[slot.replica] <= 0:
            del queue.running[slot.replica]
        self._serve(name, queue)

    def _abandon(self, name: str, queue: _Queue, waiter: asyncio.Future[Slot]) -> None:
        if waiter in queue.waiting:
            queue.waiting.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(name, waiter.result())  # served in the very moment it gave up

    def _serve(self, name: str, queue: _Queue) -> None:
        """Give free slots to the oldest waiting requests."""
        while queue.waiting:
            slot = self._free_slot(name, queue)
            if slot is None:
                break
            waiter = queue.waiting.popleft()
            if not waiter.done():
                queue.running[slot.replica] += 1
                waiter.set_result(slot)
        if not queue.waiting:
            queue.changed.set()

    def _free_slot(self, name: str, queue: _Queue) -> Slot | None:
        route = self._table.routes.get(name)
        if route is None:
            return None
        limit = route.record.spec.autoscaling.max_ongoing_requests
        revision_id = route.record.revision.id

        def running(replica: RouteReplica) -> int:
            return queue.running[replica.worker_id, revision_id]

        free = [replica for replica in route.replicas if running(replica) < limit]
        if not free:
            return None

        def load(replica: RouteReplica) -> tuple[bool, int]:
            return (not replica.ready, running(replica))

        best = min(free, key=load)
        return Slot(best.worker_id, route.record, best.ready)

    async def _keep_placing(self, name: str, queue: _Queue) -> None:
        """Tell the scheduler at once, and every second while requests wait."""
        settled = False
        try:
            while queue.waiting:
                queue.changed.clear()
                try:
                    running = self._running(name, queue)
                    route = await self._place(name, len(queue.waiting), running)
                except PlatformError as error:
                    self._fail(queue, error)
                    settled = False
                    break
                self._adopt(name, route)
                self._serve(name, queue)
                settled = route.settled
                if queue.waiting and route.replicas:
                    try:
                        async with asyncio.timeout(_REASSERT_S):
                            await queue.changed.wait()
                    except TimeoutError:
                        pass
            if not settled:
                await self._place(name, 0, 0)  # nothing waits any more
        except PlatformError as error:
            logger.info("demand_not_withdrawn model=%s reason=%s", name, error)
        except Exception as error:
            logger.exception("placing_failed model=%s", name)
            self._fail(queue, EngineError(f"placing failed: {error}"))
        finally:
            queue.placing = None
            if queue.waiting:  # arrived while the demand was withdrawn
                queue.placing = asyncio.create_task(self._keep_placing(name, queue))

    def _adopt(self, name: str, route: Route) -> None:
        known = self._table.routes.get(name)
        if known is not None and known.record.revision.id == route.record.revision.id:
            self._table.routes[name] = replace(route, settled=False)  # that was of this call

    def _running(self, name: str, queue: _Queue) -> int:
        """Requests that have a slot on the present revision."""
        revision_id = self.route(name).record.revision.id
        return sum(n for (_, revision), n in queue.running.items() if revision == revision_id)

    @staticmethod
    def _fail(queue: _Queue, error: PlatformError) -> None:
        while queue.waiting:
            waiter = queue.waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def _timed_out(self, name: str, waited_s: float) -> ColdStartTimeoutError:
        route = self._table.routes.get(name)
        if route is not None and route.replicas:
            why = "all its replicas are busy"
        elif route is not None and route.waiting_for:
            why = route.waiting_for
        elif not self._table.workers:
            why = "no worker is up yet"
        else:
            why = "no replica became ready"
        return ColdStartTimeoutError(
            f"Model {name!r} was not reached within {waited_s:g} s "
            f"(autoscaling.cold_start_timeout_s): {why}.",
            retry_after_s=min(waited_s, 10.0),
        )
