"""The object: told step by step, it decides as if it had been told all at once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_cluster import Cluster, a_model
from support.snapshots import GB

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    ModelSnapshot,
    Phase,
    PoolConfig,
    ReplicaSnapshot,
    Rule,
    StartingWorker,
    Tier,
    WorkerSnapshot,
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
