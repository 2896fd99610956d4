"""Workers in this process, for a scheduler without Ray: they hold names, not weights."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from support.waiting import next_turn

from pilotlight_platform.errors import AttachError, EvictionRefusedError, WorkerLostError
from pilotlight_platform.latest import Latest
from pilotlight_platform.schemas.cluster import AttachOrder, ReplicaReport, WorkerReport


@dataclass
class OwnWorker:
    """What a worker does on the scheduler's orders, and what it reports."""

    replicas: dict[str, ReplicaReport] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)
    attached: list[str] = field(default_factory=list)  # every model that was, in order
    broken: bool = False
    stalled: bool = False  # what attaches goes on attaching
    alive: bool = True
    _number: int = 0

    def __post_init__(self) -> None:
        self.reports: Latest[WorkerReport] = Latest(WorkerReport(1))
        self._number = 1

    def report(self) -> WorkerReport:
        self._number += 1
        report = WorkerReport(self._number, tuple(self.replicas.values()))
        self.reports.set(report)
        return report

    def serve(self, revision_id: str, ongoing: int, *took_s: float) -> None:
        """So many requests run in the replica from now on, after some that took so long."""
        old = self.replicas[revision_id]
        self.replicas[revision_id] = replace(
            old,
            ongoing=ongoing,
            idle_since_s=None if ongoing else time.time(),
            served=old.served + len(took_s),
            served_s=old.served_s + sum(took_s),
        )
        self.report()

    def attach(self, order: AttachOrder) -> WorkerReport:
        if self.broken:
            raise AttachError("it is broken")
        if any(self.replicas[each].ongoing for each in order.evict):
            raise EvictionRefusedError("requests are running")
        for each in order.evict:
            del self.replicas[each]
        now_s = time.time()
        self.attached.append(order.model)
        self.replicas[order.revision_id] = ReplicaReport(
            order.model, order.revision_id, order.nbytes, "ready", now_s, 0, now_s, "host", now_s
        )
        return self.report()

    def detach(self, revision_id: str) -> WorkerReport:
        if not self.replicas[revision_id].ongoing:
            del self.replicas[revision_id]
        return self.report()


class OwnWorkers:
    """Called as ``WorkerPool`` is."""

    def __init__(self, *worker_ids: str) -> None:
        self.all = {worker_id: OwnWorker() for worker_id in worker_ids}

    async def reports(self, worker_id: str) -> AsyncIterator[WorkerReport]:
        async for report in self._one(worker_id).reports.values():
            if not self.all[worker_id].alive:
                raise WorkerLostError("the process died")
            yield report

    async def prepare(self, worker_id: str, revision_id: str, path: str) -> None:
        await next_turn()
        self._one(worker_id).prepared.add(revision_id)

    async def forget(self, worker_id: str, revision_id: str) -> None:
        self._one(worker_id).prepared.discard(revision_id)

    async def attach(self, worker_id: str, order: AttachOrder) -> WorkerReport:
        await next_turn()
        worker = self._one(worker_id)
        if worker.stalled:
            worker.replicas[order.revision_id] = ReplicaReport(
                order.model, order.revision_id, order.nbytes, "attaching", time.time(), 0, None
            )
            worker.report()
            await asyncio.Event().wait()
        return worker.attach(order)

    async def detach(self, worker_id: str, revision_id: str) -> WorkerReport:
        await next_turn()
        return self._one(worker_id).detach(revision_id)

    def kill(self, worker_id: str) -> None:
        self.all[worker_id].alive = False
        self.all[worker_id].report()

    def _one(self, worker_id: str) -> OwnWorker:
        worker = self.all[worker_id]
        if not worker.alive:
            raise WorkerLostError("the process died")
        return worker
