"""Keeps the autoscaler told: only what has changed since last time, at times that never go back."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler import (
    Autoscaler,
    Decision,
    ModelSnapshot,
    PolicyState,
    Tier,
    WorkerSnapshot,
)
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.live_model import Model
from pilotlight_platform.scheduler.worker_state import WorkerState


class Told:
    """An autoscaler and what it was last told."""

    def __init__(self, autoscaler: Autoscaler) -> None:
        self.autoscaler = autoscaler
        self._workers: dict[str, WorkerSnapshot] = {}
        self._models: dict[str, ModelSnapshot] = {}
        self._at_rest: set[str] = set()
        self._idle: set[str] = set()  # models whose next request ends an idle gap
        self._latest_s = 0.0
        self.lessons = 0  # counts what was learned from

    def clock(self, now_s: float) -> float:
        """*now_s*, or the latest time so far where the wall clock was set back."""
        self._latest_s = max(self._latest_s, now_s)
        return self._latest_s

    def restore(self, state: PolicyState) -> None:
        """Take over what an earlier scheduler has learned; before anything else is told."""
        self.autoscaler.restore(state)
        self._latest_s = max(self._latest_s, state.decided_s)
        self._idle = {name for name, m in state.models.items() if m.idle_since_s is not None}

    def decide(self, cluster: Cluster, now_s: float) -> Decision:
        """Tell of *cluster*, then ask."""
        self.tell(cluster, now_s)
        return self.autoscaler.decide(self.clock(now_s))

    def tell(self, cluster: Cluster, now_s: float) -> None:
        """Models at rest at zero are told of once, not at every step."""
        snapshot = cluster.snapshot(now_s)
        workers = {worker.worker_id: worker for worker in snapshot.workers}
        for gone in self._workers.keys() - workers.keys():
            self.autoscaler.remove_worker(gone)
        for worker_id, worker in workers.items():
            if self._workers.get(worker_id) != worker:
                self.autoscaler.update_worker(worker)
        self._workers = workers
        for gone in self._models.keys() - cluster.models.keys():
            self.autoscaler.remove_model(gone)
            del self._models[gone]
            self._at_rest.discard(gone)
            self._idle.discard(gone)
        active = {model.name: model for model in snapshot.models}
        for name, known in self._resting(cluster.models, active).items():
            self._tell_model(known.snapshot(now_s))
            self._at_rest.add(name)
        for model in active.values():
            self._tell_model(model)
            self._at_rest.discard(model.name)

    def arrived(self, name: str, now_s: float, requests: int, *, warm: bool = False) -> None:
        """Requests have come. A *warm* one counts only as the end of a gap."""
        if name in self._models and (not warm or name in self._idle):
            self._idle.discard(name)
            self.lessons += 1
            self.autoscaler.arrived(name, self.clock(now_s), requests)

    def rested(self, name: str, since_s: float) -> None:
        """Nothing of the model runs or waits any more."""
        if name in self._models and name not in self._idle:
            self._idle.add(name)
            self.lessons += 1
            self.autoscaler.finished(name, max(0.0, since_s), left=0)

    def cold_starts(self, worker: WorkerState) -> None:
        """Starts in *worker* that have ended since last time."""
        for name, tier, seconds in worker.cold_started():
            self.cold_started(name, tier, seconds)

    def cold_started(self, name: str, tier: Tier, seconds: float) -> None:
        if name in self._models:
            self.lessons += 1
            self.autoscaler.cold_started(name, tier, max(0.0, seconds))

    def _resting(
        self, models: Mapping[str, Model], active: Mapping[str, ModelSnapshot]
    ) -> dict[str, Model]:
        return {
            name: model
            for name, model in models.items()
            if name not in active
            and (
                name not in self._at_rest
                or self._models[name].revision_id != model.revision_id
                or self._models[name].config is not model.record.spec.autoscaling
            )
        }

    def _tell_model(self, model: ModelSnapshot) -> None:
        if self._models.get(model.name) != model:
            self._models[model.name] = model
            self.autoscaler.update_model(model)
