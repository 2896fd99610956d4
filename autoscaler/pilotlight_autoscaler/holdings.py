"""Which worker holds which replica, counted as it changes so that nothing is recounted."""

from __future__ import annotations

from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.replica_view import ReplicaView
from pilotlight_autoscaler.snapshot import DRAINING, ReplicaSnapshot
from pilotlight_autoscaler.vacancies import Vacancies
from pilotlight_autoscaler.worker_view import WorkerView


class Holdings:
    """Replicas by worker and by model. ``changed`` and ``room_changed`` say what to look at."""

    def __init__(self) -> None:
        self.models: dict[str, ModelView] = {}
        self.workers: dict[str, WorkerView] = {}
        self.changed: set[str] = set()
        self.room_changed = True
        self.pool_changed = True  # other workers are empty, or there are others
        self.obsolete: set[tuple[str, str]] = set()  # worker, revision: no model lists it
        self.vacancies = Vacancies()
        self._held: dict[str, set[tuple[str, str]]] = {}  # by model: worker, revision

    def _put(self, worker: WorkerView, replica: ReplicaSnapshot) -> None:
        revision_id = replica.revision_id
        old = worker.replicas.get(revision_id)
        if old is not None:
            if old.is_same(replica):
                self._load(worker, old, replica.ongoing, replica.idle_since_s)
                return
            if old.is_ready_now(replica):
                self._ready(worker, old, replica)
                return
            self._drop(worker, revision_id)
        if not worker.replicas:
            self.vacancies.remove(worker)
            self.pool_changed = True
        new = ReplicaView(replica)
        worker.hold(new)
        self._held.setdefault(replica.model, set()).add((worker.worker_id, revision_id))
        if replica.phase is not DRAINING:
            view = self.models.get(replica.model)
            if view is not None and view.snapshot.revision_id == revision_id:
                view.count(worker.worker_id, new, 1)
            else:
                self.obsolete.add((worker.worker_id, revision_id))
        self.changed.add(replica.model)
        self.room_changed = True

    def _ready(self, worker: WorkerView, replica: ReplicaView, now: ReplicaSnapshot) -> None:
        """An attach has ended: the replica has its place already."""
        view = replica.counted_by
        if view is not None:
            view.count(worker.worker_id, replica, -1)
        worker.attaching -= 1
        worker.ongoing += now.ongoing - replica.ongoing
        worker.idle = None
        replica.tell(now)
        if view is not None:
            view.count(worker.worker_id, replica, 1)
        self.changed.add(replica.model)
        self.room_changed = True

    def _load(
        self, worker: WorkerView, replica: ReplicaView, ongoing: int, idle_since_s: float | None
    ) -> None:
        """The usual case: a request came or went."""
        more = ongoing - replica.ongoing
        if not more and replica.idle_since_s == idle_since_s:
            return
        replica.ongoing, replica.idle_since_s = ongoing, idle_since_s
        worker.idle = None
        worker.ongoing += more
        if replica.counted_by is not None:
            replica.counted_by.ongoing += more
        # With less load, also another replica of the model may be one too many.
        if ongoing == 0 or more < 0:
            self.room_changed = True
        self.changed.add(replica.model)

    def _drop(self, worker: WorkerView, revision_id: str) -> None:
        replica = worker.release(revision_id)
        if not worker.replicas:
            self.vacancies.add(worker)
            self.pool_changed = True
        held = self._held[replica.model]
        held.remove((worker.worker_id, revision_id))
        if not held:
            del self._held[replica.model]
        self.obsolete.discard((worker.worker_id, revision_id))
        if replica.counted_by is not None:
            replica.counted_by.count(worker.worker_id, replica, -1)
        self.changed.add(replica.model)
        self.room_changed = True

    def _recount(self, view: ModelView) -> None:
        view.reset_counts()
        for worker_id, revision_id in sorted(self._held.get(view.name, ())):
            worker = self.workers[worker_id]
            replica, worker.idle = worker.replicas[revision_id], None
            self.obsolete.discard((worker_id, revision_id))
            if replica.phase is DRAINING:
                continue
            if revision_id == view.snapshot.revision_id:
                view.count(worker_id, replica, 1)
            else:
                self.obsolete.add((worker_id, revision_id))
