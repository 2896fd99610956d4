"""The cluster as the policy was told of it, counted as it changes so that nothing is recounted."""

from __future__ import annotations

from bisect import insort

from pilotlight_autoscaler.checks import (
    check_load,
    check_model,
    check_node,
    check_queue,
    check_replica,
    check_starting,
    check_worker,
)
from pilotlight_autoscaler.errors import InputError
from pilotlight_autoscaler.holdings import Holdings
from pilotlight_autoscaler.learned import Learned
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.sizes import Sizes
from pilotlight_autoscaler.snapshot import (
    DRAINING,
    ModelSnapshot,
    NodeSnapshot,
    ReplicaSnapshot,
    StartingWorker,
    WorkerSnapshot,
)
from pilotlight_autoscaler.sources import Sources
from pilotlight_autoscaler.worker_view import WorkerView


class Mirror(Holdings):
    """Models, workers, nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: dict[str, Learned] = {}  # also of models that are not known again yet
        self.order: list[str] = []  # ids of the workers, sorted
        self.sources = Sources()
        self.starting: tuple[StartingWorker, ...] = ()
        self.prewarmed: set[str] = set()  # models with a replica that nobody has asked for
        self.sizes = Sizes()

    def update_model(self, model: ModelSnapshot) -> None:
        check_model(model)
        view = self.models.get(model.name)
        if view is None:
            view = self.models[model.name] = ModelView(model, Learned())
            self.adopt(view)
            self._recount(view)
        else:
            old = view.snapshot
            view.tell(model)
            window_s = model.config.panic.stable_window_s
            if window_s != old.config.panic.stable_window_s:
                self.adopt(view)
            if model.revision_id != old.revision_id or model.nbytes != old.nbytes:
                self._recount(view)
        view.share = self.sizes.share(model.nbytes)
        self.changed.add(model.name)
        self.room_changed = True

    def update_queue(self, model: str, queued: int, oldest_queued_since_s: float | None) -> None:
        view = self.model(model)
        check_queue(model, queued, oldest_queued_since_s)
        view.queued, view.oldest_queued_since_s = queued, oldest_queued_since_s
        self.changed.add(model)

    def remove_model(self, name: str) -> None:
        view = self.model(name)
        del self.models[name]
        self.learned.pop(name, None)
        self.prewarmed.discard(name)
        self.changed.discard(name)
        self.room_changed = True
        for worker_id, revision_id in self._held.get(name, ()):
            worker = self.workers[worker_id]
            worker.idle = None
            if worker.replicas[revision_id].phase is not DRAINING:
                self.obsolete.add((worker_id, revision_id))
        view.reset_counts()

    def update_worker(self, worker: WorkerSnapshot) -> None:
        check_worker(worker)
        view = self.workers.get(worker.worker_id)
        if view is None:
            view = self.workers[worker.worker_id] = WorkerView(worker)
            insort(self.order, worker.worker_id)
            self.vacancies.add(view)
            self.sizes.total_bytes += worker.capacity_bytes
            self.pool_changed = True
        else:
            here = {replica.revision_id for replica in worker.replicas}
            for gone in [each for each in view.replicas if each not in here]:
                self._drop(view, gone)
            self.sizes.total_bytes += worker.capacity_bytes - view.capacity_bytes
            if view.replicas:
                view.resize(worker)
            else:
                self.vacancies.remove(view)
                view.resize(worker)
                self.vacancies.add(view)
        for replica in worker.replicas:
            self._put(view, replica)
        self.room_changed = True
        if not self.sizes.are(worker.capacity_bytes, worker.max_replicas):
            self._measure()

    def update_replica(self, worker_id: str, replica: ReplicaSnapshot) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            raise InputError(f"there is no worker {worker_id!r}: update_worker comes first")
        check_replica(replica)
        self._put(worker, replica)

    def update_load(
        self, worker_id: str, revision_id: str, ongoing: int, idle_since_s: float | None
    ) -> None:
        worker = self.workers.get(worker_id)
        replica = None if worker is None else worker.replicas.get(revision_id)
        if worker is None or replica is None:
            raise InputError(
                f"worker {worker_id!r} has no revision {revision_id!r}: update_replica comes first"
            )
        check_load(revision_id, ongoing, idle_since_s)
        self._load(worker, replica, ongoing, idle_since_s)

    def remove_replica(self, worker_id: str, revision_id: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or revision_id not in worker.replicas:
            raise InputError(f"worker {worker_id!r} has no revision {revision_id!r} to remove")
        self._drop(worker, revision_id)

    def remove_worker(self, worker_id: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            raise InputError(f"there is no worker {worker_id!r} to remove")
        for revision_id in list(worker.replicas):
            self._drop(worker, revision_id)
        self.vacancies.remove(worker)
        self.sizes.total_bytes -= worker.capacity_bytes
        self.pool_changed = True
        del self.workers[worker_id]
        self.order.remove(worker_id)
        self.room_changed = True
        self._measure()

    def update_node(self, node: NodeSnapshot) -> None:
        check_node(node)
        self.sources.update(node)
        self.room_changed = True

    def remove_node(self, node_id: str) -> None:
        self.sources.remove(node_id)

    def update_starting(self, starting: tuple[StartingWorker, ...]) -> None:
        check_starting(starting)
        self.starting = starting
        self.room_changed = True

    def adopt(self, view: ModelView) -> None:
        """Give a model what was restored of it."""
        window_s = view.snapshot.config.panic.stable_window_s
        learned = self.learned.get(view.name)
        if learned is None or learned.load.window_s != window_s:
            learned = learned.with_window(window_s) if learned else Learned(window_s)
            self.learned[view.name] = learned
        view.adopt(learned)
        if learned.prewarm_until_s is not None:
            self.prewarmed.add(view.name)
        self.changed.add(view.name)

    def model(self, name: str) -> ModelView:
        """Raises InputError for a model that was never told of."""
        view = self.models.get(name)
        if view is None:
            raise InputError(f"there is no model {name!r}: update_model comes first")
        return view

    def _measure(self) -> None:
        if self.sizes.measure(self.workers.values()):
            for view in self.models.values():
                view.share = self.sizes.share(view.snapshot.nbytes)
            for worker in self.workers.values():
                worker.idle = None
