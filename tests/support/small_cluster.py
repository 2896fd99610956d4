"""A small cluster with an autoscaler of its own, and requests that come to it at a steady pace."""

from dataclasses import replace

from support.snapshots import GB

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    ClusterSnapshot,
    Decision,
    ModelSnapshot,
    Phase,
    PoolConfig,
    ReplicaSnapshot,
    WorkerSnapshot,
    decide,
)

POOL = PoolConfig(max_workers=4, idle_timeout_s=30)


class Cluster:
    """A small cluster that carries out what is decided, and tells of every change."""

    def __init__(self, models: list[ModelSnapshot], workers: int, gb: int = 2) -> None:
        self.now_s = 1000.0
        self.autoscaler = Autoscaler(POOL)
        self.models = {model.name: model for model in models}
        self.workers = {
            f"w{n}": WorkerSnapshot(f"w{n}", "node", gb * GB, 4) for n in range(workers)
        }
        for worker in self.workers.values():
            self.autoscaler.update_worker(worker)
        for model in models:
            self.autoscaler.update_model(model)

    def replicas(self, name: str) -> list[tuple[str, ReplicaSnapshot]]:
        return [
            (worker_id, each)
            for worker_id, worker in self.workers.items()
            for each in worker.replicas
            if each.model == name
        ]

    def decide(self) -> Decision:
        """The object's decision, after comparing it with the function's."""
        state = self.autoscaler.state()
        cluster = ClusterSnapshot(tuple(self.workers.values()))
        models = tuple(self.models.values())
        found = self.autoscaler.decide(self.now_s)
        pure, _ = decide(cluster, models, POOL, state, self.now_s)
        assert replace(pure, wake_at_s=None) == replace(found, wake_at_s=None)
        return found

    def apply(self, decision: Decision) -> None:
        for attach in decision.attach:
            for revision_id in attach.evict:
                self.change(attach.worker_id, revision_id, None)
            new = ReplicaSnapshot(
                attach.model, attach.revision_id, GB, Phase.ATTACHING, self.now_s, 0, None
            )
            self.change(attach.worker_id, attach.revision_id, new)
        for detach in decision.detach:
            self.change(detach.worker_id, detach.revision_id, None)
        for drain in decision.drain:
            (old,) = [
                each
                for each in self.workers[drain.worker_id].replicas
                if each.revision_id == drain.revision_id
            ]
            gone = replace(old, phase=Phase.DRAINING, since_s=self.now_s)
            self.change(drain.worker_id, drain.revision_id, gone)

    def change(self, worker_id: str, revision_id: str, new: ReplicaSnapshot | None) -> None:
        worker = self.workers[worker_id]
        kept = [each for each in worker.replicas if each.revision_id != revision_id]
        self.workers[worker_id] = replace(
            worker, replicas=(*kept, new) if new is not None else tuple(kept)
        )
        assert sum(r.nbytes for r in self.workers[worker_id].replicas) <= worker.capacity_bytes
        old = next((each for each in worker.replicas if each.revision_id == revision_id), None)
        if new is None:
            self.autoscaler.update_worker(self.workers[worker_id])
        elif old is not None and (old.phase, old.since_s) == (new.phase, new.since_s):
            self.autoscaler.update_load(worker_id, revision_id, new.ongoing, new.idle_since_s)
        else:
            self.autoscaler.update_replica(worker_id, new)

    def queue(self, name: str, queued: int) -> None:
        since_s = self.now_s if queued else None
        self.models[name] = replace(self.models[name], queued=queued, oldest_queued_since_s=since_s)
        self.autoscaler.update_queue(name, queued, since_s)

    def load(self, name: str, ongoing: int) -> None:
        """So many requests run in each ready replica, and none waits."""
        was = sum(each.ongoing for _, each in self.replicas(name)) + self.models[name].queued
        if ongoing > was:
            self.autoscaler.arrived(name, self.now_s, ongoing - was)
        ready = [(w, r) for w, r in self.replicas(name) if r.phase is not Phase.DRAINING]
        for worker_id, old in ready:
            idle_s = None if ongoing else self.now_s
            new = replace(old, phase=Phase.READY, ongoing=ongoing, idle_since_s=idle_s)
            if (old.phase, old.ongoing) != (new.phase, new.ongoing):
                self.change(worker_id, old.revision_id, new)
        self.queue(name, 0 if ready else ongoing)
        if was and not ongoing:
            self.autoscaler.finished(name, self.now_s, left=0, service_s=1.0)


def a_model(name: str, **config: object) -> ModelSnapshot:
    return ModelSnapshot(
        name, f"{name}-1", GB, AutoscalingConfig.model_validate({"max_replicas": 3, **config})
    )


def rhythm(cluster: Cluster, name: str, gap_s: float, times: int) -> list[float]:
    """Requests at a steady pace; the ages of each gap at which a replica was ordered unasked."""
    ordered: list[float] = []
    for _ in range(times):
        cluster.load(name, 1)
        cluster.apply(cluster.decide())
        cluster.load(name, 1)
        cluster.decide()
        cluster.load(name, 0)
        began_s, end_s = cluster.now_s, cluster.now_s + gap_s
        while True:
            decision = cluster.decide()
            ordered += [cluster.now_s - began_s for each in decision.attach if each.prewarm]
            cluster.apply(decision)
            if decision.wake_at_s is None or decision.wake_at_s >= end_s:
                break
            cluster.now_s = decision.wake_at_s
        cluster.now_s = end_s
    return ordered
