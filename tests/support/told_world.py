"""A small cluster to which anything may happen, and two policies that are told of it."""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from support.records import model_record
from support.told_everything import ToldEverything

from pilotlight_autoscaler import Autoscaler, AutoscalingConfig, Decision, PoolConfig
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import AttachOrder, ReplicaReport, WorkerInfo, WorkerReport

NAMES = ("a", "b", "c", "d", "e")
WORKERS = ("w0", "w1", "w2", "w3")
POOL = PoolConfig(min_workers=0, max_workers=4, idle_timeout_s=20)
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"idle_timeout_s": 3},
    {"max_replicas": 3, "max_ongoing_requests": 2, "target_ongoing_requests": 1},
    {"min_replicas": 1, "max_replicas": 2, "idle_timeout_s": 1},
    {
        "max_replicas": 4,
        "max_ongoing_requests": 1,
        "upscale_delay_s": 2,
        "upscaling_factor": 0.5,
        "placement": {"spread": True},
    },
)


@dataclass
class World:
    """A cluster that does what it is told, one event at a time, and two policies that look on."""

    now_s: float = 1000.0
    cluster: Cluster = field(default_factory=lambda: Cluster({}))
    changes: Told = field(default_factory=lambda: Told(Autoscaler(POOL)))
    everything: Told = field(default_factory=lambda: ToldEverything(Autoscaler(POOL)))
    orders: list[tuple[str, AttachOrder]] = field(default_factory=list)
    leaving: list[tuple[str, str]] = field(default_factory=list)  # worker, revision
    revisions: int = 0

    def step(self) -> Decision:
        everything = self.everything.decide(self.cluster, self.now_s)
        told = self.changes.decide(self.cluster, self.now_s)
        assert replace(told, wake_at_s=None) == replace(everything, wake_at_s=None)
        # A timer for room that somebody has taken meanwhile may still stand: early, never late.
        assert (told.wake_at_s or inf) <= (everything.wake_at_s or inf)
        return told

    def apply(self, decision: Decision) -> None:
        for attach in decision.attach:
            revision = self.cluster.models[attach.model].record.revision
            order = AttachOrder(attach.model, revision.id, "/c", revision.nbytes, attach.evict)
            self.cluster.workers[attach.worker_id].order(order, self.now_s)
            self.orders.append((attach.worker_id, order))
        for detach in decision.detach:
            self.cluster.workers[detach.worker_id].leave(detach.revision_id)
            self.leaving.append((detach.worker_id, detach.revision_id))
        for drain in decision.drain:
            self.cluster.workers[drain.worker_id].drain(drain.revision_id)

    # ── events: n and m choose among what there is ───────────────────────────────────────────

    def deploy(self, n: int, m: int) -> None:
        name = NAMES[n % len(NAMES)]
        self.revisions += 1
        record = model_record(name, nbytes=100 + 50 * (m % 5), **CONFIGS[m % len(CONFIGS)])
        revision = record.revision.model_copy(update={"id": f"{name}-{self.revisions}"})
        self.cluster.put(record.model_copy(update={"revision": revision}))

    def delete(self, n: int, m: int) -> None:
        if self.cluster.models:
            self.cluster.remove(sorted(self.cluster.models)[n % len(self.cluster.models)])

    def configure(self, n: int, m: int) -> None:
        if self.cluster.models:
            model = self.cluster.models[sorted(self.cluster.models)[n % len(self.cluster.models)]]
            config = AutoscalingConfig(**CONFIGS[m % len(CONFIGS)])
            spec = model.record.spec.model_copy(update={"autoscaling": config})
            model.configure(model.record.model_copy(update={"spec": spec}))

    def join(self, n: int, m: int) -> None:
        worker_id = WORKERS[n % len(WORKERS)]
        if worker_id not in self.cluster.workers:
            capacity_bytes = 250 + 50 * (m % 4)
            rates = {"disk": 10.0, "device": 1.0} if m % 3 else {"host": 50.0, "remote": 0.5}
            node_id = f"n{n % 2}"
            info = WorkerInfo(worker_id, node_id, 1, 1, capacity_bytes, 2, 400, rates)
            worker = self.cluster.join(info)
            worker.observe(WorkerReport(1))

    def lose(self, n: int, m: int) -> None:
        self.cluster.lose(WORKERS[n % len(WORKERS)])
        self.orders = [each for each in self.orders if each[0] in self.cluster.workers]
        self.leaving = [each for each in self.leaving if each[0] in self.cluster.workers]

    def prepare(self, n: int, m: int) -> None:
        live = sorted(self.cluster.live_revisions())
        if live:
            self.cluster.nodes.prepared(f"n{n % 2}", live[m % len(live)])

    def leave_pool(self, n: int, m: int) -> None:
        here = sorted(self.cluster.workers)
        self.cluster.leaving = frozenset(here[: n % 2])

    def queue(self, n: int, m: int) -> None:
        if self.cluster.models:
            name = sorted(self.cluster.models)[n % len(self.cluster.models)]
            more = self.cluster.models[name].want(f"g{m % 2}", m % 4, self.now_s)
            for told in (self.changes, self.everything):
                if more:
                    told.arrived(name, self.now_s, more)

    def answer(self, n: int, m: int) -> None:
        """An attach order ends: well, badly, or with its worker's refusal."""
        if not self.orders:
            return
        worker_id, order = self.orders.pop(n % len(self.orders))
        worker = self.cluster.workers[worker_id]
        model = self.cluster.models.get(order.model)
        began_s = None
        if m % 5 == 0:
            if model is not None:
                model.attach_failed("broken", self.now_s)
        elif m % 5 != 1:
            kept = [r for r in worker.report.replicas if r.revision_id not in order.evict]
            now_s = self.now_s
            new = ReplicaReport(
                order.model,
                order.revision_id,
                order.nbytes,
                "ready",
                now_s,
                0,
                now_s,
                "host",
                now_s,
            )
            self.report(worker_id, (*kept, new))
            began_s = now_s - 0.5
            if model is not None:
                model.attached()
        worker.ordered(order.revision_id, began_s)
        for replica, tier, took_s in worker.cold_started():
            for told in (self.changes, self.everything):
                told.cold_started(replica.model, replica.revision_id, tier, took_s)

    def detached(self, n: int, m: int) -> None:
        if not self.leaving:
            return
        worker_id, revision_id = self.leaving.pop(n % len(self.leaving))
        worker = self.cluster.workers[worker_id]
        kept = tuple(r for r in worker.report.replicas if r.revision_id != revision_id or r.ongoing)
        self.report(worker_id, kept)
        worker.left(revision_id)

    def request(self, n: int, m: int) -> None:
        """Requests begin or end in a replica."""
        held = [(w, r) for w, s in self.cluster.workers.items() for r in s.report.replicas]
        if not held:
            return
        worker_id, replica = held[n % len(held)]
        worker, ongoing = self.cluster.workers[worker_id], m % 3
        idle_s = None if ongoing else self.now_s
        new = replace(replica, ongoing=ongoing, idle_since_s=idle_s)
        self.report(worker_id, tuple(new if r is replica else r for r in worker.report.replicas))
        for told in (self.changes, self.everything):
            if ongoing:
                told.arrived(replica.model, self.now_s, 1, warm=True)
            elif self.cluster.at_rest(replica.model):
                told.rested(replica.model, self.now_s)
        for revision_id in worker.drained():
            worker.leave(revision_id)
            self.leaving.append((worker_id, revision_id))

    def drain(self, n: int, m: int) -> None:
        held = [(s, r) for s in self.cluster.workers.values() for r in s.report.replicas]
        if held:
            worker, replica = held[n % len(held)]
            worker.drain(replica.revision_id)

    def report(self, worker_id: str, replicas: tuple[ReplicaReport, ...]) -> None:
        worker = self.cluster.workers[worker_id]
        worker.observe(WorkerReport(worker.report.number + 1, replicas))

    def wait(self, n: int, m: int) -> None:
        self.now_s += (0.0, 0.1, 1.0, 2.5, 7.0, 40.0)[m % 6]
