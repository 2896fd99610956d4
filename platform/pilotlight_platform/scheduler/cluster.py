"""The scheduler's picture of the cluster; what changes in it is noted for the policy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pilotlight_autoscaler import Unplaced
from pilotlight_platform.errors import ModelNotFoundError
from pilotlight_platform.scheduler.changes import Changes
from pilotlight_platform.scheduler.holders import Holders
from pilotlight_platform.scheduler.live_model import DEMAND_TTL_S, Model
from pilotlight_platform.scheduler.nodes import Nodes
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import (
    ReplicaReport,
    Route,
    RouteReplica,
    RoutingTable,
    WorkerInfo,
)
from pilotlight_platform.schemas.model import ModelRecord


class Cluster:
    """Workers and models as the scheduler knows them. Values only: no calls, no waiting."""

    def __init__(self, records: dict[str, ModelRecord]) -> None:
        self.changes = Changes()
        self.models: dict[str, Model] = {}
        self.workers: dict[str, WorkerState] = {}
        self.nodes = Nodes(self.changes.nodes.add)
        self._unplaced: dict[str, Unplaced] = {}
        self.version = 0  # counts changes of workers
        self._leaving: frozenset[str] = frozenset()
        self._live: dict[str, str] = {}  # path by revision
        self._waiting: set[str] = set()  # models with demand
        self._holders = Holders()
        self._arriving: Counter[str] = Counter()  # checkpoints that are about to be live
        for record in records.values():
            self.put(record)

    # ── changed ──────────────────────────────────────────────────────────────────────────────

    def put(self, record: ModelRecord) -> None:
        """Make *record* live; who waits for an older one waits for this."""
        name = record.spec.name
        old = self.models.get(name)
        demand = {} if old is None else old.demand
        if old is not None and old.revision_id != record.revision.id:
            self._retire(old.revision_id)
        self._live[record.revision.id] = record.revision.path
        self.models[name] = Model(record, self._model_touched, demand)
        self._model_touched(name)

    def deploy(self, record: ModelRecord) -> None:
        """The same at a deploy; what is only known again has gone live before."""
        old = self.models.get(record.spec.name)
        self.put(record)
        if old is None or old.revision_id != record.revision.id:
            self.changes.deployed.add(record.spec.name)

    def remove(self, name: str) -> None:
        self._retire(self.models.pop(name).revision_id)
        self._model_touched(name)

    def join(self, info: WorkerInfo) -> WorkerState:
        worker = self.workers[info.worker_id] = WorkerState(info, self._worker_touched)
        self.nodes.join(info)
        self._worker_touched(info.worker_id)
        return worker

    def lose(self, worker_id: str) -> bool:
        """Whether it was there."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return False
        self.nodes.lose(worker.info)
        self._worker_touched(worker_id)
        return True

    @property
    def leaving(self) -> frozenset[str]:
        """Workers that are about to leave the pool: nothing new goes there."""
        return self._leaving

    @leaving.setter
    def leaving(self, leaving: frozenset[str]) -> None:
        for worker_id in self._leaving ^ leaving:
            self._worker_touched(worker_id)
        self._leaving = leaving

    def expire_demand(self, now_s: float) -> None:
        """Forget what gateways have not repeated."""
        for name in tuple(self._waiting):
            self.models[name].expire(now_s)

    @property
    def unplaced(self) -> dict[str, Unplaced]:
        """Of the last decision, by model."""
        return self._unplaced

    @unplaced.setter
    def unplaced(self, unplaced: dict[str, Unplaced]) -> None:
        self.changes.standings |= {name for name, each in unplaced.items() if each.permanent}
        self._unplaced = unplaced

    def _retire(self, revision_id: str) -> None:
        del self._live[revision_id]
        self.nodes.forget(revision_id)

    def _model_touched(self, name: str) -> None:
        self.changes.models.add(name)
        self.changes.standings.add(name)
        model = self.models.get(name)
        waits = model is not None and bool(model.demand)
        (self._waiting.add if waits else self._waiting.discard)(name)

    def _worker_touched(self, worker_id: str) -> None:
        self.changes.workers.add(worker_id)
        self.version += 1
        worker = self.workers.get(worker_id)
        held = () if worker is None else worker.replicas()
        self.changes.standings |= self._holders.put(worker_id, held)
        if worker is None:
            return
        node_id = worker.info.node_id
        for each in worker.report.replicas:
            if each.tier is not None and each.phase == "ready" and each.revision_id in self._live:
                self.nodes.attached(node_id, each.revision_id, each.nbytes, each.since_s)

    # ── looked at ────────────────────────────────────────────────────────────────────────────

    def model(self, name: str) -> Model:
        """Raises ModelNotFoundError."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFoundError(f"There is no model {name!r}: `pilotlight list` shows them.")
        return model

    def staying(self) -> list[tuple[str, WorkerState]]:
        """The workers that are not about to leave the pool."""
        return [each for each in self.workers.items() if each[0] not in self._leaving]

    def stays(self, worker_id: str) -> WorkerState | None:
        """None for one that has gone, or is about to."""
        return None if worker_id in self._leaving else self.workers.get(worker_id)

    def held(self, name: str) -> list[tuple[str, ReplicaReport]]:
        """The model's replicas by worker, of whatever revision, in whatever phase."""
        return [
            (worker_id, replica)
            for worker_id in self._holders.of(name)
            for replica in self.workers[worker_id].replicas()
            if replica.model == name
        ]

    def replicas(self, name: str) -> tuple[RouteReplica, ...]:
        """Where the model's current revision is or will be, ready ones first."""
        model = self.models.get(name)
        found = [
            RouteReplica(worker_id, replica.phase == "ready")
            for worker_id, replica in self.held(name)
            if model is not None
            and replica.revision_id == model.revision_id
            and replica.phase != "draining"
            and worker_id not in self._leaving
        ]
        return tuple(sorted(found, key=lambda each: not each.ready))

    def route(self, name: str, replicas: tuple[RouteReplica, ...]) -> Route:
        unplaced = self.unplaced.get(name)
        return Route(self.models[name].record, replicas, unplaced.reason if unplaced else None)

    def routing_table(self, version: int) -> RoutingTable:
        return RoutingTable(
            version,
            {name: self.route(name, self.replicas(name)) for name in self.models},
            tuple(worker.info for _, worker in self.staying()),
        )

    def has_room(self, name: str, queued: int, running: int) -> bool:
        """Whether the model's replicas, those on their way too, can take *queued* more requests.

        *running* have a slot; a report of them is 0.1 s late.
        """
        model = self.models[name]
        replicas = [
            replica
            for _, replica in self.held(name)
            if replica.revision_id == model.revision_id and replica.phase != "draining"
        ]
        limit = model.record.spec.autoscaling.max_ongoing_requests
        taken = max(running, sum(replica.ongoing for replica in replicas))
        return len(replicas) * limit - taken >= queued

    def waiting_inside(self, name: str) -> int:
        """Requests that wait in a worker for the model's weights."""
        return sum(each.ongoing for _, each in self.held(name) if each.phase == "attaching")

    def at_rest(self, name: str) -> bool:
        """Whether nothing of the model runs or waits."""
        model = self.models.get(name)
        busy = any(replica.ongoing for _, replica in self.held(name))
        return model is not None and not model.demand and not busy

    def demand_expires_s(self) -> float | None:
        """When the first demand that is not repeated will be forgotten."""
        waiting = (self.models[name] for name in self._waiting)
        repeated = [each.repeated_s for model in waiting for each in model.demand.values()]
        return min(repeated) + DEMAND_TTL_S if repeated else None

    def largest_worker_bytes(self) -> int | None:
        """What the largest worker can hold; None without workers."""
        return max((w.info.capacity_bytes for w in self.workers.values()), default=None)

    def largest_node_bytes(self) -> int | None:
        """The memory of the largest machine; None if it is not known."""
        return max((w.info.memory_bytes for w in self.workers.values()), default=0) or None

    def checkpoints_in_use(self) -> set[str]:
        """Directories that are live or about to be, or that a worker is about to map."""
        attaching = {path for w in self.workers.values() for path in w.attaching_paths()}
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
        return self._live.copy()

    def is_live(self, revision_id: str) -> bool:
        return revision_id in self._live


def now() -> float:
    """Unix seconds: workers on other nodes report theirs, and idle times are compared to it."""
    return time.time()
