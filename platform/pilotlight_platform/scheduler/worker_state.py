"""A registered worker: what it reports, and what it was ordered to do since."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pilotlight_autoscaler import Phase, ReplicaSnapshot, Tier
from pilotlight_autoscaler import WorkerSnapshot as WorkerView
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaReport,
    WorkerInfo,
    WorkerReport,
)


@dataclass(slots=True)
class WorkerState:
    """A registered worker: its last report, and the orders that it has not reported yet."""

    info: WorkerInfo
    report: WorkerReport = field(default_factory=WorkerReport)
    orders: dict[str, tuple[AttachOrder, float]] = field(default_factory=dict)  # by revision
    starting: dict[str, float] = field(default_factory=dict)  # by revision: not measured yet
    leaving: set[str] = field(default_factory=set)  # revisions with a detach under way
    draining: set[str] = field(default_factory=set)  # to be detached when their streams have ended

    def observe(self, report: WorkerReport) -> None:
        """Take over *report* unless a later one is known: they travel in several ways."""
        if report.number > self.report.number:
            self.report = report

    def replicas(self) -> list[ReplicaReport]:
        """What is here, on its way, or about to go: those count as draining until they have."""
        going = {victim for order, _ in self.orders.values() for victim in order.evict}
        going |= self.leaving | self.draining
        here = {
            r.revision_id: replace(r, phase="draining") if r.revision_id in going else r
            for r in self.report.replicas
        }
        for revision_id, (order, at_s) in self.orders.items():
            here.setdefault(
                revision_id,
                ReplicaReport(order.model, revision_id, order.nbytes, "attaching", at_s, 0, None),
            )
        return list(here.values())

    @property
    def busy(self) -> bool:
        """Requests run here, or an attach is under way."""
        return bool(self.orders) or any(r.ongoing for r in self.report.replicas)

    def cold_started(self) -> list[tuple[str, Tier, float]]:
        """Starts whose weights are all there now: model, tier, seconds since the order."""
        here = {r.revision_id: r for r in self.report.replicas}
        measured = []
        for revision_id, began_s in list(self.starting.items()):
            replica = here.get(revision_id)
            if replica is None:
                del self.starting[revision_id]  # gone before it was all there
            elif replica.tier is not None and replica.staged_s is not None:
                del self.starting[revision_id]
                took_s = max(0.0, max(replica.since_s, replica.staged_s) - began_s)
                measured.append((replica.model, Tier(replica.tier), took_s))
        return measured

    def drained(self) -> list[ReplicaReport]:
        """Replicas whose last stream has ended since they were to be drained."""
        here = {r.revision_id: r for r in self.report.replicas}
        self.draining &= here.keys()
        return [here[revision_id] for revision_id in self.draining if not here[revision_id].ongoing]

    def snapshot(self) -> WorkerView:
        info = self.info
        return WorkerView(
            info.worker_id,
            info.node_id,
            info.capacity_bytes,
            info.max_replicas,
            tuple(_replica_view(r) for r in self.replicas()),
        )


def _replica_view(report: ReplicaReport) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        model=report.model,
        revision_id=report.revision_id,
        nbytes=report.nbytes,
        phase=Phase(report.phase),
        since_s=report.since_s,
        ongoing=report.ongoing,
        idle_since_s=report.idle_since_s,
    )
