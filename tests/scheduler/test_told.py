"""The policy is told of what changes: it must decide as one that is told everything each time."""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.records import model_record

from pilotlight_autoscaler import Autoscaler, AutoscalingConfig, Decision, PoolConfig, Tier
from pilotlight_autoscaler.gaps import bin_of
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaReport,
    WorkerInfo,
    WorkerReport,
)

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


class ToldEverything(Told):
    """The whole picture at every step, whatever has changed."""

    def tell(self, cluster: Cluster, now_s: float) -> None:
        cluster.expire_demand(now_s)
        workers = {worker_id: worker.snapshot() for worker_id, worker in cluster.staying()}
        for gone in self._workers.keys() - workers.keys():
            self.autoscaler.remove_worker(gone)
        nodes = set(cluster.nodes.ids())
        for gone in self._nodes - nodes:
            self.autoscaler.remove_node(gone)
        for node_id in nodes:
            node = cluster.nodes.snapshot(node_id)
            assert node is not None
            self.autoscaler.update_node(node)
        self._nodes = nodes
        for worker in workers.values():
            self.autoscaler.update_worker(worker)
        models = {name: model.snapshot() for name, model in cluster.models.items()}
        for gone in self._models.keys() - models.keys():
            self.autoscaler.remove_model(gone)
            self._idle.discard(gone)
        for model in models.values():
            self.autoscaler.update_model(model)
        self._workers, self._models = workers, models


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


EVENTS = (
    World.deploy,
    World.delete,
    World.configure,
    World.join,
    World.lose,
    World.leave_pool,
    World.drain,
    *[World.prepare] * 2,
    *[World.queue] * 4,
    *[World.answer] * 4,
    *[World.detached] * 3,
    *[World.request] * 4,
    *[World.wait] * 4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(EVENTS))), st.integers(0, 11), st.integers(0, 59)),
        min_size=20,
        max_size=80,
    )
)
# Two busy replicas whose average load falls, with no event, to what one of them takes.
@example(
    [
        *[(9, 0, 0), (9, 3, 2), (2, 0, 0), (2, 0, 0), (20, 1, 2), *[(1, 0, 0)] * 3],
        *[(9, 0, 3), (13, 1, 2), *[(0, 0, 0)] * 9, (20, 1, 8)],
    ]
)
# Part of what a delay has held back finds no room: the next look is due though nothing happens.
@example(
    [
        *[(1, 0, 0), (0, 0, 0), (0, 1, 29), (13, 0, 2), (13, 0, 2), (24, 1, 3), (9, 1, 3)],
        *[(24, 0, 2), (24, 0, 4), (13, 2, 3)],
    ]
)
# An order that evicts a replica whose time has come is refused before it was told of.
@example(
    [
        *[*[(0, 0, 0)] * 2, (0, 0, 3), *[(1, 0, 0)] * 2, (13, 0, 2), *[(0, 0, 0)] * 5],
        *[*[(13, 0, 0)] * 2, (0, 0, 0), (4, 0, 0), (9, 0, 1), (13, 0, 2)],
        *[(0, 1, 3), (24, 0, 5), (13, 0, 1)],
    ]
)
def test_told_of_changes_decides_as_one_told_everything(
    events: list[tuple[int, int, int]],
) -> None:
    world = World()
    for n in range(4):
        world.deploy(n, n)
        world.join(n, 3)
        world.prepare(n, n)
        world.prepare(n + 1, n)
    for n in range(3):  # most begin with a replica
        world.queue(n, 1)
        world.apply(world.step())
        world.answer(0, 2)
        world.queue(n, 0)
    for which, n, m in events:
        EVENTS[which](world, n, m)
        world.apply(world.step())
    # At rest: the timers that are left must be the same, too.
    for _ in range(3):
        world.now_s += 30.0
        world.apply(world.step())


def test_told_says_nothing_twice() -> None:
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.step()
    calls: list[str] = []

    class Spy(Autoscaler):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith(("update_", "remove_")):
                calls.append(name)
            return super().__getattribute__(name)

    world.changes.autoscaler.__class__ = Spy
    world.cluster.models["a"].want("g", 0, world.now_s)
    world.step()
    quiet = list(calls)
    world.cluster.models["a"].want("g", 2, world.now_s)
    world.step()

    assert quiet == []
    assert calls == ["update_queue"]


def test_told_learns_how_long_requests_take_where_they_run() -> None:
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.queue(0, 1)
    world.apply(world.step())
    world.answer(0, 2)
    worker = world.cluster.workers["w0"]
    (replica,) = worker.report.replicas
    world.report("w0", (replace(replica, served=3, served_s=12.0),))
    world.changes.measured(worker)
    learned_s = world.changes.autoscaler.view("a").service_s

    assert learned_s == 4.0
    assert world.changes.lessons > world.everything.lessons  # it is to be saved


def resting() -> tuple[World, ReplicaReport]:
    """Model a is ready on w0 and rests since 1000 s."""
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.queue(0, 1)
    world.apply(world.step())
    world.answer(0, 2)
    world.queue(0, 0)
    world.step()
    world.changes.rested("a", 1000.0)
    (replica,) = world.cluster.workers["w0"].report.replicas
    return world, replica


def test_told_of_a_visit_between_two_reports_ends_a_gap_where_it_began() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.report("w0", (replace(replica, idle_since_s=1100.0, served=1, served_s=0.05),))
    world.changes.measured(world.cluster.workers["w0"])
    assert list(learned.gaps.counts) == [bin_of(99.95)]
    assert learned.idle_since_s is None

    world.changes.rested("a", 1100.0)
    assert learned.idle_since_s == 1100.0


def test_told_of_what_a_report_has_shown_running_ends_no_second_gap() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.changes.arrived("a", 1050.0, 1, warm=True)
    world.report("w0", (replace(replica, idle_since_s=1100.0, served=1, served_s=50.0),))
    world.changes.measured(world.cluster.workers["w0"])

    assert list(learned.gaps.counts) == [bin_of(50.0)]


def test_told_of_a_visit_while_another_request_runs_leaves_the_gap_to_that() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    busy = replace(replica, ongoing=1, idle_since_s=None, served=1, served_s=0.05)
    world.report("w0", (busy,))
    world.changes.measured(world.cluster.workers["w0"])

    assert (learned.gaps.observed, learned.service_s) == (0, 0.05)


@pytest.mark.parametrize("first", [0, 1])
def test_told_of_visits_to_two_replicas_at_once_ends_one_gap(first: int) -> None:
    """Both are over before any report, one of them 30 ms after the other."""
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.cluster.join(WorkerInfo("w9", "n", 1, 1, 1000, 2, 400, {}))
    world.report("w9", (replica,))
    world.cluster.workers["w9"].served()
    ends = [("w0", 1100.0), ("w9", 1100.03)]
    for worker_id, ended_s in ends if first == 0 else reversed(ends):
        served = replace(replica, idle_since_s=ended_s, served=1, served_s=0.05)
        world.report(worker_id, (served,))
        world.changes.measured(world.cluster.workers[worker_id])
        world.changes.rested("a", ended_s)

    assert learned.gaps.observed == 1
    assert learned.idle_since_s == 1100.03


def test_told_of_a_rest_before_the_latest_arrival_lets_it_begin_there() -> None:
    world, _ = resting()
    world.changes.arrived("a", 1050.0, 1)
    world.changes.rested("a", 1000.0)

    assert world.changes.autoscaler.view("a").learned.idle_since_s == 1050.0


def test_told_learns_no_gaps_while_a_clock_that_was_set_back_has_not_caught_up() -> None:
    world, _ = resting()
    told = world.changes
    told.arrived("a", 2000.0, 1)
    counted = dict(told.autoscaler.view("a").learned.gaps.counts)
    for at_s in (900.0, 1000.0, 1100.0):
        told.rested("a", at_s)
        told.arrived("a", at_s + 90, 1)
    learned = told.autoscaler.view("a").learned

    assert learned.gaps.counts == counted
    told.rested("a", 1200.0)
    told.arrived("a", 2100.0, 1)
    assert learned.gaps.observed == 2


def test_told_does_not_count_times_of_an_older_revision() -> None:
    world = World()
    world.deploy(0, 0)  # a-1
    world.step()
    world.changes.cold_started("a", "a-0", Tier.HOST, 60.0)
    world.changes.served("a", "a-0", 1, 60.0)
    view = world.changes.autoscaler.view("a")

    assert (view.service_s, view.learned.cold_starts.typical_s()) == (0.0, None)


def test_told_gives_what_a_start_was_foretold_to_take_until_one_is_measured() -> None:
    record = model_record("a", nbytes=100)
    cluster = Cluster({"a": record.model_copy(update={"predicted_load_s": {Tier.DISK: 7.5}})})
    told = Told(Autoscaler(POOL))
    told.tell(cluster, 1000.0)
    foretold_s = told.autoscaler.view("a").cold_start_s
    told.cold_started("a", "a-1", Tier.DISK, 3.0)

    assert (foretold_s, told.autoscaler.view("a").cold_start_s) == (7.5, 3.0)


def test_told_of_a_deploy_once_and_not_of_what_was_live_before() -> None:
    record = model_record("a", prewarm={"on_deploy": True})
    cluster, told = Cluster({"a": record}), Told(Autoscaler(POOL))
    told.tell(cluster, 1000.0)
    cluster.deploy(record)
    told.tell(cluster, 1000.0)
    assert not told.autoscaler.view("a").learned.first_due

    revision = record.revision.model_copy(update={"id": "a-2"})
    cluster.deploy(record.model_copy(update={"revision": revision}))
    lessons = told.lessons
    told.tell(cluster, 1001.0)
    assert told.autoscaler.view("a").learned.first_due
    assert told.lessons > lessons  # a restart is to know it


def test_told_counts_nobody_twice_who_queued_and_then_waits_in_a_replica() -> None:
    world = World()
    world.deploy(0, 0)
    world.step()
    told = world.changes
    told.rested("a", 900.0)
    told.arrived("a", 1000.0, 2)
    burst = told.autoscaler.view("a").learned.burst
    told.joined("a", 1000.0, 2)
    queued = burst.waiting
    told.joined("a", 1000.0, 5)
    told.joined("a", 1000.0, 5)

    assert (queued, burst.waiting) == (2.0, 5.0)
