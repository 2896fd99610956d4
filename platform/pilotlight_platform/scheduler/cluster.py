"""The scheduler's picture of the cluster, and its translation into what the policy sees."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pilotlight_autoscaler import ModelSnapshot, Unplaced
from pilotlight_autoscaler import WorkerSnapshot as WorkerView
from pilotlight_platform.errors import ModelNotFoundError
from pilotlight_platform.scheduler.live_model import DEMAND_TTL_S, Model
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.model import ModelRecord


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be decided on: the workers, and the models that could need something."""

    workers: tuple[WorkerView, ...]
    models: tuple[ModelSnapshot, ...]


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

    def model(self, name: str) -> Model:
        """Raises ModelNotFoundError."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFoundError(f"There is no model {name!r}: `pilotlight list` shows them.")
        return model

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
