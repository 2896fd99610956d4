"""The object: told step by step, it decides as if it had been told all at once."""

import json
import math
from bisect import bisect_right
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    ClockError,
    ClusterSnapshot,
    Decision,
    InputError,
    ModelSnapshot,
    Phase,
    PolicyState,
    PoolConfig,
    ReplicaSnapshot,
    Rule,
    StartingWorker,
    StateError,
    Tier,
    WorkerSnapshot,
    decide,
)
from pilotlight_autoscaler.gaps import BINS, EDGES_S, HORIZON_S, bin_of

GB = 10**9
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


steps = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([0, 0, 1, 3, 9]),
    st.sampled_from([0.0, 0.3, 1.0, 4.0, 11.0, 30.0, 61.0, 400.0]),
    st.booleans(),
)


@given(history=st.lists(steps, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_autoscaler_incremental_equals_full(history: list[tuple[str, int, float, bool]]) -> None:
    """Whatever happens, and also at each of its own wake-ups."""
    cluster = Cluster(
        [
            a_model("a", upscale_delay_s=3, upscaling_factor=0.5),
            a_model("b", idle_timeout_s=5, upscaling_factor=3, prewarm={"on_deploy": True}),
            a_model("c", min_replicas=1),
        ],
        workers=2,
    )
    for name, load, wait_s, measured in history:
        until_s = cluster.now_s + wait_s
        cluster.load(name, load)
        if measured:
            cluster.autoscaler.deployed(name)
            cluster.autoscaler.cold_started(name, Tier.DISK, 1 + load)
        for _ in range(200):
            decision = cluster.decide()
            cluster.apply(decision)
            if decision.wake_at_s is None or decision.wake_at_s >= until_s:
                break
            cluster.now_s = decision.wake_at_s
        cluster.now_s = until_s


@given(load=st.integers(0, 40), seconds=st.lists(st.floats(0, 20), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_autoscaler_constant_load_brings_no_second_action(load: int, seconds: list[float]) -> None:
    cluster = Cluster([a_model("a", idle_timeout_s=3600, max_replicas=2)], workers=2)
    cluster.load("a", load)
    for _ in range(3):  # requests wait, then run
        cluster.apply(cluster.decide())
        cluster.load("a", load)
    for wait_s in seconds:
        cluster.now_s += wait_s
        decision = cluster.decide()
        cluster.apply(decision)

    assert len(cluster.replicas("a")) <= 2
    assert (decision.attach, decision.detach) == ((), ())


@given(loads=st.lists(st.integers(0, 60), min_size=2, max_size=2).map(sorted))
@settings(max_examples=60, deadline=None)
def test_autoscaler_wants_no_less_for_more(loads: list[int]) -> None:
    def started(load: int) -> int:
        cluster = Cluster([a_model("a", max_replicas=9)], workers=9)
        cluster.load("a", load)
        return len(cluster.decide().attach)

    assert started(loads[0]) <= started(loads[1])


def test_autoscaler_repeats_an_order_until_it_is_told_of_it() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.load("a", 1)

    assert cluster.decide().attach == cluster.decide().attach != ()


def test_autoscaler_one_replica_for_a_crowd_that_will_be_served_by_then() -> None:
    """20 requests of 0.1 s each are done long before a second replica is there."""
    model = replace(a_model("a", target_ongoing_requests=8), service_s=0.1, cold_start_s=10.0)
    cluster = Cluster([model], workers=3)
    cluster.load("a", 1)
    cluster.apply(cluster.decide())
    cluster.load("a", 8)
    cluster.queue("a", 20)
    decision = cluster.decide()

    assert decision.attach == ()
    assert cluster.autoscaler.explain("a", cluster.now_s).rule is Rule.GUARD


def test_autoscaler_panics_for_a_sudden_rise_and_holds_it() -> None:
    cluster = Cluster([a_model("a", idle_timeout_s=1)], workers=3)
    cluster.load("a", 1)
    cluster.apply(cluster.decide())
    cluster.load("a", 1)
    cluster.apply(cluster.decide())
    cluster.now_s += 300
    cluster.apply(cluster.decide())
    cluster.load("a", 8)
    cluster.apply(cluster.decide())
    for _ in range(100):
        wake_s = cluster.decide().wake_at_s
        assert wake_s is not None
        cluster.now_s = wake_s
        decision = cluster.decide()
        if decision.attach:
            break
    assert cluster.now_s == pytest.approx(1310, abs=8)
    assert decision.attach[0].reason.rule is Rule.PANIC

    cluster.apply(decision)
    cluster.load("a", 1)
    cluster.apply(cluster.decide())
    cluster.load("a", 0)
    cluster.apply(cluster.decide())
    cluster.now_s += 20
    assert cluster.decide().detach == ()
    cluster.now_s += 60
    assert len(cluster.decide().detach) == 1


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


def test_autoscaler_prewarms_a_steady_rhythm_after_eight_gaps() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)

    assert rhythm(cluster, "a", 600.0, 8) == []
    ages_s = rhythm(cluster, "a", 600.0, 4)
    assert len(ages_s) >= 3
    assert all(450 < age_s < 600 for age_s in ages_s)


def test_autoscaler_stops_prewarming_when_forecasts_fail() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 600.0, 12)
    view = cluster.autoscaler._mirror.models["a"]
    for _ in range(12):
        view.learned.forecast(hit=False)

    assert rhythm(cluster, "a", 600.0, 1) == []
    assert "at a hit rate of 0.3, saw" in cluster.autoscaler.explain("a", cluster.now_s).text


def test_forecast_that_finds_no_room_is_not_reported_as_unplaced() -> None:
    """Nobody waits for it, and it is tried again."""
    cluster = Cluster([a_model("a"), a_model("b")], workers=1, gb=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 600.0, 10)
    cluster.load("a", 1)
    cluster.decide()
    cluster.load("a", 0)
    ends_s = cluster.now_s + 600
    seen = []
    while True:
        decision = cluster.decide()
        cluster.apply(decision)
        if not cluster.replicas("a") and not cluster.replicas("b"):
            cluster.load("b", 1)
            cluster.apply(cluster.decide())
            cluster.load("b", 1)
            decision = cluster.decide()
        seen.append((cluster.autoscaler.view("a").learned.prewarm_retry_s, decision.unplaced))
        if decision.wake_at_s is None or decision.wake_at_s >= ends_s:
            break
        cluster.now_s = decision.wake_at_s

    assert max(retry_s for retry_s, _ in seen) > 0
    assert all(unplaced == () for _, unplaced in seen)


def test_autoscaler_state_survives_json() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 100.0, 10)
    state = cluster.autoscaler.state()

    assert PolicyState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"version": 3}, "version"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"73": 1}}}}}, r"models\.a\.gaps"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"x": 1}}}}}, r"models\.a\.gaps"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"²": 1}}}}}, r"models\.a\.gaps"),
        (
            {"version": 1, "models": {"a": {"gaps": {"counts": {"9" * 5000: 1}}}}},
            r"models\.a\.gaps",
        ),
        ({"version": 1, "models": {"a": []}}, r"models\.a"),
        ({"models": {"a": {"burst": {"k": math.nan}}}}, r"models\.a\.burst\.k"),
        ({"models": {"a": {"gaps": {"counts": {"199": 1.0}}}}}, r"models\.a\.gaps\.counts"),
        ({"models": {"a": {"colour": 1}}}, r"models\.a\.colour"),
        ([], "all of it"),
    ],
)
def test_state_damage_is_refused_by_its_place(values: object, place: str) -> None:
    with pytest.raises(StateError, match=f"saved autoscaler state: {place}"):
        PolicyState.from_json(values)


def test_autoscaler_refuses_a_clock_that_steps_back() -> None:
    autoscaler = Autoscaler()
    autoscaler.decide(10.0)

    with pytest.raises(ClockError, match=r"went back from 10\.0 to 9\.0"):
        autoscaler.decide(9.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["cold_start_s", "service_s", "requests_per_s", "retry_at_s"])
def test_autoscaler_refuses_a_model_by_the_name_of_its_field(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} of model 'a' must be a finite number"):
        Autoscaler().update_model(replace(a_model("a"), **{field: value}))


def test_autoscaler_refuses_what_it_was_never_told_of() -> None:
    with pytest.raises(InputError, match="there is no model 'a'"):
        Autoscaler().arrived("a", 1.0)


def test_pool_grows_for_a_queue_and_shrinks_to_zero_after_a_while() -> None:
    cluster = Cluster([a_model("a", idle_timeout_s=1)], workers=0)
    cluster.load("a", 1)
    pool = cluster.decide().pool

    assert pool is not None
    assert (pool.workers, str(pool.reason)) == (
        2,
        "0 in use + 1 lacking + 1 spare = 2, within 0 to 4; would be fewer 30 s after fewer are "
        "needed; would be 3 with 1 more in use or lacking",
    )

    cluster.autoscaler.update_starting((StartingWorker("w0", cluster.now_s),))
    cluster.load("a", 0)
    assert cluster.decide().pool is None
    kept = cluster.autoscaler.explain_pool(cluster.now_s + 10)
    assert kept.text == (
        "0 in use + 0 lacking + 0 spare = 0, within 0 to 4; 2 were wanted in the last 30 s, would "
        "go to 0 in 20.0 s; would be 3 with 2 more in use or lacking"
    )
    assert dict(kept.inputs) == {"used": 0, "lacking": 0, "spare": 0, "target": 2}
    cluster.now_s += 30
    pool = cluster.decide().pool
    assert pool is not None
    assert pool.workers == 0


def test_load_that_falls_in_one_replica_frees_the_room_of_another() -> None:
    busy = AutoscalingConfig(max_replicas=2, max_ongoing_requests=1, idle_timeout_s=600)
    autoscaler = Autoscaler(PoolConfig(min_workers=2, max_workers=2, buffer_workers=0))
    autoscaler.update_model(ModelSnapshot("busy", "busy-1", GB, busy))
    asked = ModelSnapshot("asked", "asked-1", GB, AutoscalingConfig(), 1, 1000.0)
    autoscaler.update_model(asked)
    two = ReplicaSnapshot("busy", "busy-1", GB, Phase.READY, 500.0, 2, None)
    for worker_id, replica in (("w0", replace(two, ongoing=0, idle_since_s=900.0)), ("w1", two)):
        autoscaler.update_worker(WorkerSnapshot(worker_id, "node", GB, 1, (replica,)))
    before = autoscaler.decide(1000.0)
    autoscaler.update_load("w1", "busy-1", 1, None)
    after = autoscaler.decide(1000.0)

    assert before.attach == ()
    assert [(each.worker_id, each.evict) for each in after.attach] == [("w0", ("busy-1",))]


def test_state_of_version_1_is_read_with_its_gaps_in_bins_half_as_wide() -> None:
    old_edges_s = (0.0, *(HORIZON_S ** (n / 71) for n in range(72)))
    gap_s = 600.0
    old_bin = bisect_right(old_edges_s, gap_s) - 1
    counts = {"0": 3.0, str(old_bin): 8.0, "72": 1.0}
    gaps = {"observed": 12, "unit": 1.0, "counts": counts}
    model = {"gaps": gaps, "cold_starts": {"samples": {"disk": [2.0]}, "latest": "disk"}}
    state = PolicyState.from_json({"version": 1, "decided_s": 7.0, "models": {"a": model}})
    read = state.models["a"]

    assert (state.version, state.decided_s, read.gaps.observed) == (2, 7.0, 12)
    assert read.cold_starts.samples == {Tier.DISK: [2.0]}
    assert sum(read.gaps.counts.values()) == 12.0
    halves = {n: count for n, count in read.gaps.counts.items() if 0 < n < BINS}
    assert set(halves.values()) == {4.0}
    assert bin_of(gap_s) in halves
    assert EDGES_S[min(halves)] == pytest.approx(old_edges_s[old_bin])
    assert EDGES_S[max(halves) + 1] == pytest.approx(old_edges_s[old_bin + 1])
    assert (read.gaps.counts[0], read.gaps.counts[BINS]) == (3.0, 1.0)


def test_new_revision_with_other_bytes_does_not_go_by_the_old_ones_cold_starts() -> None:
    old, new = a_model("a"), replace(a_model("a"), revision_id="a-2", nbytes=4 * GB)
    autoscaler = Autoscaler()
    autoscaler.update_model(old)
    for _ in range(10):
        autoscaler.cold_started("a", Tier.DISK, 2.0)
    saved = autoscaler.state()
    autoscaler.update_model(replace(old, revision_id="a-2"))
    alike_s = autoscaler.view("a").cold_start_s
    autoscaler.update_model(new)
    restarted = Autoscaler()  # the new revision went live meanwhile
    restarted.restore(saved)
    restarted.update_model(new)
    scaled_s = 2.0 * new.nbytes / old.nbytes

    assert alike_s == 2.0
    assert autoscaler.view("a").cold_start_s == restarted.view("a").cold_start_s == scaled_s
    assert scaled_s != 2.0


def test_load_of_a_replica_that_nobody_has_told_of_is_refused() -> None:
    autoscaler = Autoscaler()
    autoscaler.update_worker(WorkerSnapshot("w0", "node", GB, 1))

    with pytest.raises(InputError, match="'w0' has no revision 'a-1': update_replica comes first"):
        autoscaler.update_load("w0", "a-1", 1, None)


def test_replica_of_a_model_that_has_rested_is_looked_at_only_when_it_goes() -> None:
    """After short gaps it is looked at as soon as it might go: mostly it is busy by then."""
    autoscaler = Autoscaler()
    autoscaler.update_model(
        ModelSnapshot("a", "a-1", GB, AutoscalingConfig(max_replicas=1), cold_start_s=8.0)
    )
    idle = ReplicaSnapshot("a", "a-1", GB, Phase.READY, 900.0, 0, 1000.0)
    autoscaler.update_worker(WorkerSnapshot("w0", "node", GB, 1, (idle,)))
    wakes_after_s = []
    for began_s in (1000.0, 1001.0, 1100.0):
        autoscaler.arrived("a", began_s)
        autoscaler.finished("a", began_s, left=0)
        autoscaler.update_load("w0", "a-1", 0, began_s)
        wakes_after_s.append((autoscaler.decide(began_s).wake_at_s or 0.0) - began_s)

    assert wakes_after_s[:2] == [10.0, 10.0]
    assert wakes_after_s[2] > 60.0
