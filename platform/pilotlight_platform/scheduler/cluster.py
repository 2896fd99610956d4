"""The scheduler's picture of the cluster, and its translation into what the policy sees."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pilotlight_autoscaler import (
    ModelSnapshot,
    Phase,
    ReplicaSnapshot,
    Tier,
    Unplaced,
)
from pilotlight_autoscaler import WorkerSnapshot as WorkerView
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaReport,
    Route,
    RouteReplica,
    RoutingTable,
    WorkerInfo,
    WorkerReport,
)
from pilotlight_platform.schemas.model import ModelRecord

# A gateway repeats its demand every second while requests wait; what it has not repeated for
# this long is forgotten, so that a dead gateway leaves no demand behind.
DEMAND_TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be decided on: the workers, and the models that could need something."""

    workers: tuple[WorkerView, ...]
    models: tuple[ModelSnapshot, ...]


@dataclass(slots=True)
class Demand:
    """Requests that wait in one gateway for one model."""

    queued: int
    since_s: float
    repeated_s: float


@dataclass(slots=True)
class Model:
    """A live model and what is known of its use. Times are Unix seconds."""

    record: ModelRecord
    demand: dict[str, Demand] = field(default_factory=dict)  # by gateway
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: str | None = None

    @property
    def revision_id(self) -> str:
        return self.record.revision.id

    def want(self, gateway: str, queued: int, now_s: float) -> int:
        """Note a gateway's queue; how many more wait there than it had said before."""
        known = self.demand.get(gateway)
        if queued == 0:
            self.demand.pop(gateway, None)
        elif known is None:
            self.demand[gateway] = Demand(queued, now_s, now_s)
        else:
            more, known.queued, known.repeated_s = queued - known.queued, queued, now_s
            return max(0, more)
        return queued

    def snapshot(self, now_s: float) -> ModelSnapshot:
        self.demand = {
            gateway: demand
            for gateway, demand in self.demand.items()
            if now_s - demand.repeated_s < DEMAND_TTL_S
        }
        live = self.demand.values()
        return ModelSnapshot(
            name=self.record.spec.name,
            revision_id=self.revision_id,
            nbytes=self.record.revision.nbytes,
            config=self.record.spec.autoscaling,
            queued=sum(d.queued for d in live),
            oldest_queued_since_s=min((d.since_s for d in live), default=None),
            retry_at_s=self.retry_at_s,
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


class Cluster:
    """Workers and models as the scheduler knows them. Values only: no calls, no waiting."""

    def __init__(self, records: dict[str, ModelRecord]) -> None:
        self.models = {name: Model(record) for name, record in records.items()}
        self.workers: dict[str, WorkerState] = {}
        self.leaving: frozenset[str] = frozenset()  # workers that are to go: not decided with
        self.unplaced: dict[str, Unplaced] = {}  # of the last decision, by model
        self._arriving: Counter[str] = Counter()  # checkpoints that are about to be live

    def snapshot(self, now_s: float) -> Picture:
        """The workers, and the models that could need something: not the ones at rest at zero."""
        workers = tuple(worker.snapshot() for _, worker in self.staying())
        attached = {replica.model for worker in workers for replica in worker.replicas}
        active = tuple(
            model.snapshot(now_s)
            for name, model in self.models.items()
            if model.demand or name in attached or model.record.spec.autoscaling.min_replicas
        )
        return Picture(workers, active)

    def staying(self) -> list[tuple[str, WorkerState]]:
        """The workers that are not about to leave the pool."""
        return [each for each in self.workers.items() if each[0] not in self.leaving]

    def replicas(self) -> dict[str, tuple[RouteReplica, ...]]:
        """Where each model's current revision is or will be, ready ones first."""
        found: dict[str, list[RouteReplica]] = {}
        for worker_id, worker in self.staying():
            for replica in worker.replicas():
                model = self.models.get(replica.model)
                current = model is not None and replica.revision_id == model.revision_id
                if current and replica.phase != "draining":
                    route = RouteReplica(worker_id, replica.phase == "ready")
                    found.setdefault(replica.model, []).append(route)
        return {name: tuple(sorted(rs, key=lambda r: not r.ready)) for name, rs in found.items()}

    def route(self, name: str, replicas: tuple[RouteReplica, ...]) -> Route:
        unplaced = self.unplaced.get(name)
        return Route(self.models[name].record, replicas, unplaced.reason if unplaced else None)

    def routing_table(self, version: int) -> RoutingTable:
        replicas = self.replicas()
        return RoutingTable(
            version,
            {name: self.route(name, replicas.get(name, ())) for name in self.models},
            tuple(worker.info for _, worker in self.staying()),
        )

    def has_room(self, name: str, queued: int, running: int) -> bool:
        """Whether the model's replicas, those on their way too, can take *queued* more requests.

        *running* have a slot; a report of them is 0.1 s late.
        """
        model = self.models[name]
        replicas = [
            replica
            for worker in self.workers.values()
            for replica in worker.replicas()
            if replica.revision_id == model.revision_id and replica.phase != "draining"
        ]
        limit = model.record.spec.autoscaling.max_ongoing_requests
        taken = max(running, sum(replica.ongoing for replica in replicas))
        return len(replicas) * limit - taken >= queued

    def at_rest(self, name: str) -> bool:
        """Whether nothing of the model runs or waits."""
        model = self.models.get(name)
        replicas = (r for worker in self.workers.values() for r in worker.report.replicas)
        busy = any(replica.ongoing for replica in replicas if replica.model == name)
        return model is not None and not model.demand and not busy

    def demand_expires_s(self) -> float | None:
        """When the first demand that is not repeated will be forgotten."""
        repeated = [d.repeated_s for model in self.models.values() for d in model.demand.values()]
        return min(repeated) + DEMAND_TTL_S if repeated else None

    def largest_worker_bytes(self) -> int | None:
        """What the largest worker can hold; None without workers."""
        return max((w.info.capacity_bytes for w in self.workers.values()), default=None)

    def checkpoints_in_use(self) -> set[str]:
        """Directories that are live or about to be, or that a worker is about to map."""
        attaching = {order.path for w in self.workers.values() for order, _ in w.orders.values()}
        return set(self.live_revisions().values()) | attaching | set(self._arriving)

    @contextmanager
    def arriving(self, path: str) -> Iterator[None]:
        """Count the checkpoint at *path* as in use meanwhile."""
        self._arriving[path] += 1
        try:
            yield
        finally:
            self._arriving[path] -= 1
            self._arriving += Counter()  # drops the zeros

    def live_revisions(self) -> dict[str, str]:
        """Path of each live revision by its id."""
        revisions = (model.record.revision for model in self.models.values())
        return {revision.id: revision.path for revision in revisions}


def now() -> float:
    """Unix seconds: workers on other nodes report theirs, and idle times are compared to it."""
    return time.time()
