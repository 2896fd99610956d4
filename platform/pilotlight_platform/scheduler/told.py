"""Keeps the autoscaler told: only of what has changed, at times that never go back."""

from __future__ import annotations

import logging
from dataclasses import replace

from pilotlight_autoscaler import (
    Autoscaler,
    Decision,
    InputError,
    ModelSnapshot,
    NodeSnapshot,
    PolicyState,
    ReplicaSnapshot,
    Tier,
    WorkerSnapshot,
)
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import ReplicaReport

logger = logging.getLogger("pilotlight.scheduler")

# Of the same length at once: the mean of lengths, a tenth of it the newest, has forgotten the rest.
_ENOUGH_REQUESTS = 44


class Told:
    """An autoscaler and what it was last told. Decides as one that is told everything each time."""

    def __init__(self, autoscaler: Autoscaler) -> None:
        self.autoscaler = autoscaler
        self._nodes: set[str] = set()
        self._workers: dict[str, WorkerSnapshot] = {}
        self._models: dict[str, ModelSnapshot] = {}
        self._idle: set[str] = set()  # models whose next request ends an idle gap
        self._rest_s: dict[str, float] = {}  # latest rest of a model, or a visit since
        self._asked: dict[str, int] = {}  # arrivals by model since its last idle gap
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
        rests = ((name, each.idle_since_s) for name, each in state.models.items())
        self._rest_s = {name: at_s for name, at_s in rests if at_s is not None}
        self._idle = set(self._rest_s)

    def decide(self, cluster: Cluster, now_s: float) -> Decision:
        """Tell of *cluster*, then ask."""
        self.tell(cluster, now_s)
        return self.autoscaler.decide(self.clock(now_s))

    def tell(self, cluster: Cluster, now_s: float) -> None:
        """What has changed in *cluster* since last time.

        What the policy refuses is left as it was told of before, until it changes again.
        """
        cluster.expire_demand(now_s)
        changes = cluster.changes
        while changes.nodes:
            node_id = changes.nodes.pop()
            try:
                self._tell_node(node_id, cluster.nodes.snapshot(node_id))
            except InputError as error:
                logger.error("untold node=%s reason=%s", node_id, error)
        while changes.workers:
            worker_id = changes.workers.pop()
            try:
                self._tell_worker(worker_id, cluster.stays(worker_id))
            except InputError as error:
                logger.error("untold worker=%s reason=%s", worker_id, error)
        while changes.models:
            name = changes.models.pop()
            known = cluster.models.get(name)
            try:
                self._tell_model(name, None if known is None else known.snapshot())
            except InputError as error:
                logger.error("untold model=%s reason=%s", name, error)
        while changes.deployed:
            name = changes.deployed.pop()
            if name in self._models:
                self.lessons += 1
                self.autoscaler.deployed(name)

    def arrived(self, name: str, now_s: float, requests: int, *, warm: bool = False) -> None:
        """Requests have come. A *warm* one counts only as the end of a gap."""
        if name in self._models and (not warm or name in self._idle):
            self._arrived(name, self.clock(now_s), requests)

    def joined(self, name: str, now_s: float, requests: int) -> None:
        """So many *requests* wait in replicas that attach: those that queued, and others.

        A gateway sends who comes meanwhile to the same replica without a word; they are what the
        burst factor counts.
        """
        more = requests - self._asked.get(name, 0)
        if more > 0:
            self.arrived(name, now_s, more)

    def rested(self, name: str, since_s: float) -> None:
        """Nothing of the model runs or waits any more."""
        if name in self._models and name not in self._idle:
            self._rests(name, since_s)

    def measured(self, worker: WorkerState) -> None:
        """Starts and requests in *worker* that have ended since last time."""
        for replica, tier, seconds in worker.cold_started():
            self.cold_started(replica.model, replica.revision_id, tier, seconds)
        for replica, requests, service_s in worker.served():
            self.served(replica.model, replica.revision_id, requests, service_s)
            self._visited(replica, service_s)

    def cold_started(self, name: str, revision_id: str, tier: Tier, seconds: float) -> None:
        if self._is_live(name, revision_id):
            self.lessons += 1
            self.autoscaler.cold_started(name, tier, max(0.0, seconds))

    def served(self, name: str, revision_id: str, requests: int, service_s: float) -> None:
        """So many *requests* have ended, which took *service_s* in a replica on average.

        Whether the model rests is told apart: requests may wait elsewhere.
        """
        if self._is_live(name, revision_id):
            self.lessons += 1
            now_s = self.clock(0.0)
            for _ in range(min(requests, _ENOUGH_REQUESTS)):
                self.autoscaler.finished(name, now_s, left=1, service_s=service_s)

    def _visited(self, replica: ReplicaReport, service_s: float) -> None:
        """Requests have ended in it. Where they also began since the last report, which is 0.1 s
        late, no report has shown it busy: their gap ended as the last one began, as far as one can
        tell, and the next one begins with its end.
        """
        name, ended_s = replica.model, replica.idle_since_s
        if ended_s is None or name not in self._models or name not in self._idle:
            return
        began_s = ended_s - service_s
        if began_s > self._rest_s[name]:
            self._arrived(name, began_s, 1)
        elif ended_s > self._rest_s[name]:  # it began while another ran, and ended after that
            self._rests(name, ended_s)

    def _rests(self, name: str, since_s: float) -> None:
        self._idle.add(name)
        self._rest_s[name] = max(since_s, self._rest_s.get(name, 0.0))
        self.lessons += 1
        self.autoscaler.finished(name, self._rest_s[name], left=0)

    def _arrived(self, name: str, at_s: float, requests: int) -> None:
        before = 0 if name in self._idle else self._asked.get(name, 0)
        self._asked[name] = before + requests
        self._idle.discard(name)
        self._rest_s[name] = max(at_s, self._rest_s.get(name, 0.0))
        self.lessons += 1
        self.autoscaler.arrived(name, at_s, requests)

    def _is_live(self, name: str, revision_id: str) -> bool:
        """An older revision's times are not those of the present one."""
        model = self._models.get(name)
        return model is not None and model.revision_id == revision_id

    def _tell_node(self, node_id: str, node: NodeSnapshot | None) -> None:
        if node is not None:
            self._nodes.add(node_id)
            self.autoscaler.update_node(node)
        elif node_id in self._nodes:
            self._nodes.discard(node_id)
            self.autoscaler.remove_node(node_id)

    def _tell_worker(self, worker_id: str, worker: WorkerState | None) -> None:
        known = self._workers.get(worker_id)
        if worker is None:
            if known is not None:
                del self._workers[worker_id]
                self.autoscaler.remove_worker(worker_id)
            return
        snapshot = worker.snapshot()
        if snapshot == known:
            return
        if known is None or not _only_replicas(known, snapshot):
            self.autoscaler.update_worker(snapshot)
        else:
            before = {each.revision_id: each for each in known.replicas}
            for replica in snapshot.replicas:
                old = before.get(replica.revision_id)
                if old == replica:
                    continue
                if old is not None and _only_load(old, replica):
                    self.autoscaler.update_load(
                        worker_id, replica.revision_id, replica.ongoing, replica.idle_since_s
                    )
                else:
                    self.autoscaler.update_replica(worker_id, replica)
        self._workers[worker_id] = snapshot

    def _tell_model(self, name: str, model: ModelSnapshot | None) -> None:
        known = self._models.get(name)
        if model is None:
            if known is not None:
                del self._models[name]
                self._idle.discard(name)
                self._asked.pop(name, None)
                self._rest_s.pop(name, None)
                self.lessons += 1  # what was learned of it is to be forgotten in the store, too
                self.autoscaler.remove_model(name)
            return
        if model == known:
            return
        if known is not None and _only_queue(known, model):
            self.autoscaler.update_queue(name, model.queued, model.oldest_queued_since_s)
        else:
            self.autoscaler.update_model(model)
        self._models[name] = model


def _only_replicas(old: WorkerSnapshot, new: WorkerSnapshot) -> bool:
    """Whether replicas have come or changed, and nothing else."""
    same = (old.node_id, old.capacity_bytes, old.max_replicas, old.load_queue_s) == (
        new.node_id,
        new.capacity_bytes,
        new.max_replicas,
        new.load_queue_s,
    )
    here = {each.revision_id for each in new.replicas}
    return same and all(each.revision_id in here for each in old.replicas)


def _only_load(old: ReplicaSnapshot, new: ReplicaSnapshot) -> bool:
    """Whether requests have come or gone, and nothing else has changed."""
    return old == replace(new, ongoing=old.ongoing, idle_since_s=old.idle_since_s)


def _only_queue(old: ModelSnapshot, new: ModelSnapshot) -> bool:
    """Whether the queue has changed, and nothing else."""
    return (
        old.revision_id == new.revision_id
        and old.nbytes == new.nbytes
        and old.config is new.config
        and old.retry_at_s == new.retry_at_s
        and old.cold_start_s == new.cold_start_s
    )
