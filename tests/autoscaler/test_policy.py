"""One example per rule of the policy. The clock stands at NOW_S; sizes are in GB."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pilotlight_autoscaler import (
    AutoscalingConfig,
    ClusterSnapshot,
    Decision,
    InputError,
    ModelSnapshot,
    Phase,
    PolicyState,
    PoolConfig,
    ReplicaSnapshot,
    WorkerSnapshot,
    decide,
)

NOW_S = 1000.0
GB = 10**9


def model(
    name: str, gb: float = 1, *, config: dict[str, Any] | None = None, **asked: Any
) -> ModelSnapshot:
    if asked.get("queued"):
        asked.setdefault("oldest_queued_since_s", NOW_S - 0.1)
    settings = AutoscalingConfig.model_validate(
        {"max_replicas": 4, "idle_timeout_s": 60, **(config or {})}
    )
    return ModelSnapshot(name, f"{name}-1", int(gb * GB), settings, **asked)


def replica(
    name: str,
    gb: float = 1,
    *,
    revision: int = 1,
    phase: Phase = Phase.READY,
    ongoing: int = 0,
    idle_s: float = 0.0,
) -> ReplicaSnapshot:
    idle_since_s = NOW_S - idle_s if phase is Phase.READY and not ongoing else None
    return ReplicaSnapshot(
        name, f"{name}-{revision}", int(gb * GB), phase, NOW_S - idle_s, ongoing, idle_since_s
    )


def worker(name: str, *replicas: ReplicaSnapshot, gb: float = 8, slots: int = 8) -> WorkerSnapshot:
    return WorkerSnapshot(name, "node", int(gb * GB), slots, replicas)


def decide_on(
    models: list[ModelSnapshot], workers: list[WorkerSnapshot], now_s: float = NOW_S
) -> Decision:
    """What a policy that remembers nothing decides; without the pool and what it did not do."""
    cluster = ClusterSnapshot(tuple(workers))
    # A pool that is as large as it may be: its own wake-ups stay out of these examples.
    pool = PoolConfig(min_workers=1, max_workers=1)
    decision, _ = decide(cluster, tuple(models), pool, PolicyState(), now_s)
    return replace(decision, pool=None, reasons=())


def placed(decision: Decision) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(action.model, action.worker_id, action.evict) for action in decision.attach]


def detached(decision: Decision) -> list[tuple[str, str]]:
    return [(action.revision_id, action.worker_id) for action in decision.detach]


# Attach


def test_nothing_to_do() -> None:
    assert decide_on([], []) == Decision()
    assert decide_on([model("a")], [worker("w")]) == Decision()


def test_attach_from_zero_at_once() -> None:
    decision = decide_on([model("a", queued=2)], [worker("w")])

    assert placed(decision) == [("a", "w", ())]
    assert decision.attach[0].revision_id == "a-1"
    assert str(decision.attach[0].reason) == (
        "2 queued + 0 ongoing, target 5.6: wants 1, has 0; would stay at zero with none queued"
    )


def test_attach_all_missing_at_once_to_different_workers() -> None:
    decision = decide_on([model("a", queued=12)], [worker("w1"), worker("w2"), worker("w3")])

    assert placed(decision) == [("a", "w1", ()), ("a", "w2", ()), ("a", "w3", ())]
    assert [str(action.reason).partition(": ")[2] for action in decision.attach] == [
        "wants 3, has 0; would stay at zero with none queued",
        "wants 3, has 1; would start none at 5.6 or fewer",
        "wants 3, has 2; would start none at 11.2 or fewer",
    ]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"queued": 9, "config": {"max_replicas": 1}}, "wants 1, has 0, max_replicas is 1"),
        ({"config": {"min_replicas": 1}}, "wants 1, has 0, min_replicas is 1"),
        ({"queued": 1, "config": {"min_replicas": 1}}, "wants 1, has 0"),
    ],
)
def test_attach_reason_names_the_bound_that_decides(asked: dict[str, Any], reason: str) -> None:
    decision = decide_on([model("a", **asked)], [worker("w")])

    assert reason in str(decision.attach[0].reason)


def test_attaching_replica_is_capacity() -> None:
    """A second request during the start must not start another replica."""
    attaching = replica("a", phase=Phase.ATTACHING)

    assert decide_on([model("a", queued=5)], [worker("w1", attaching), worker("w2")]) == Decision()


def test_draining_replica_is_no_capacity_and_its_requests_are_no_demand() -> None:
    draining = replica("a", phase=Phase.DRAINING, ongoing=7)
    workers = [worker("w1", draining), worker("w2")]

    assert placed(decide_on([model("a", queued=1)], workers)) == [("a", "w2", ())]
    assert decide_on([model("a")], workers) == Decision()


def test_draining_replica_keeps_its_worker() -> None:
    decision = decide_on(
        [model("a", queued=1)], [worker("w", replica("a", phase=Phase.DRAINING, ongoing=1))]
    )

    assert decision.attach == ()
    assert "every worker large enough (1) has it already" in decision.unplaced[0].reason


def test_busy_replicas_want_more() -> None:
    decision = decide_on(
        [model("a"), model("b")],
        [worker("w1", replica("a", ongoing=6)), worker("w2", replica("b", ongoing=5))],
    )

    assert placed(decision) == [("a", "w2", ())]


def test_retry_blocks_attaches_until_it_is_due() -> None:
    blocked = model("a", queued=1, retry_at_s=NOW_S + 3)
    decision = decide_on([blocked, model("b", queued=1)], [worker("w")])

    assert placed(decision) == [("b", "w", ())]
    assert decision.wake_at_s == NOW_S + 3
    assert placed(decide_on([model("a", queued=1, retry_at_s=NOW_S)], [worker("w")]))


def test_retry_of_a_model_that_lacks_nothing_wakes_nobody() -> None:
    assert decide_on([model("a", retry_at_s=NOW_S + 3)], [worker("w")]).wake_at_s is None


# Placement


def test_placement_prefers_room_to_evicting() -> None:
    busy = worker("w2", replica("c", 1, ongoing=9))
    full = worker("w1", replica("b", 8, idle_s=30))
    decision = decide_on(
        [model("a", queued=1), model("b", 8), model("c", config={"max_replicas": 1})], [full, busy]
    )

    assert placed(decision) == [("a", "w2", ())]


def test_placement_prefers_fewest_ongoing_then_most_free_then_id() -> None:
    models = [model("a", queued=1), model("b", 2), model("c", 1)]
    busy = worker("w1", replica("b", 1, ongoing=1))
    fuller = worker("w2", replica("b", 2))
    freer, last = worker("w3", replica("c", 1)), worker("w4", replica("c", 1))

    assert placed(decide_on(models, [busy, fuller, last, freer])) == [("a", "w3", ())]
    assert placed(decide_on(models, [busy, fuller])) == [("a", "w2", ())]
    assert placed(decide_on(models, [busy])) == [("a", "w1", ())]


def test_placement_counts_bytes_of_revisions_nobody_lists() -> None:
    deleted = replica("gone", 5, ongoing=1)
    decision = decide_on([model("a", 4, queued=1)], [worker("w", deleted)])

    assert decision.attach == ()
    assert "needs 4.0 GB, at most 3.0 GB is free" in decision.unplaced[0].reason


def test_placement_respects_replica_slots() -> None:
    decision = decide_on([model("a", queued=1)], [worker("w", replica("b", ongoing=1), slots=1)])

    assert decision.attach == ()
    assert "no replica slot is free" in decision.unplaced[0].reason


def test_placement_several_models_share_the_room() -> None:
    decision = decide_on(
        [model(name, 3, queued=1) for name in "abcde"], [worker("w1"), worker("w2")]
    )

    assert [(name, where) for name, where, _ in placed(decision)] == [
        ("a", "w1"),
        ("b", "w2"),
        ("c", "w1"),
        ("d", "w2"),
    ]
    assert [item.model for item in decision.unplaced] == ["e"]


# Order of service


def test_order_longest_waiting_queue_first() -> None:
    models = [
        model("late", 8, queued=9, oldest_queued_since_s=NOW_S - 1),
        model("early", 8, queued=1, oldest_queued_since_s=NOW_S - 2),
    ]

    assert placed(decide_on(models, [worker("w")])) == [("early", "w", ())]


def test_order_queues_before_min_replicas() -> None:
    models = [model("a", 8, config={"min_replicas": 1}), model("b", 8, queued=1)]
    decision = decide_on(models, [worker("w")])

    assert placed(decision) == [("b", "w", ())]
    assert [item.model for item in decision.unplaced] == ["a"]


def test_order_load_before_min_replicas() -> None:
    models = [model("a", 4, config={"min_replicas": 1}), model("b", 4)]
    workers = [worker("w1", replica("b", 4, ongoing=6), gb=4), worker("w2", gb=4)]

    assert placed(decide_on(models, workers)) == [("b", "w2", ())]


def test_order_every_queue_gets_one_replica_before_any_gets_two() -> None:
    models = [
        model("a", 8, queued=20, oldest_queued_since_s=NOW_S - 2),
        model("b", 8, queued=1, oldest_queued_since_s=NOW_S - 1),
    ]
    decision = decide_on(models, [worker("w1"), worker("w2")])

    assert placed(decision) == [("a", "w1", ()), ("b", "w2", ())]
    assert decision.unplaced[0].reason.startswith("wants 4, has 1: ")


# Eviction


def test_evict_the_cheapest_to_lose() -> None:
    models = [
        model("a", 2, queued=1),
        model("slow", 4, cold_start_s=10, requests_per_s=0.1),
        model("fast", 4, cold_start_s=1, requests_per_s=0.5),
    ]
    full = worker("w", replica("slow", 4, idle_s=30), replica("fast", 4, idle_s=20))
    decision = decide_on(models, [full])

    assert placed(decision) == [("a", "w", ("fast-1",))]
    assert str(decision.attach[0].reason).endswith("; evicts idle fast (fast-1)")
    assert decision.detach == ()


def test_evict_the_cheapest_over_all_workers() -> None:
    models = [
        model("a", 8, queued=1),
        model("b", 8, requests_per_s=0.2),
        model("c", 8, requests_per_s=0.1),
    ]
    workers = [worker("w1", replica("b", 8, idle_s=9)), worker("w2", replica("c", 8, idle_s=9))]

    assert placed(decide_on(models, workers)) == [("a", "w2", ("c-1",))]


def test_evict_the_cheapest_also_beside_the_dearest() -> None:
    models = [
        model("a", 4, queued=1),
        model("middle", 4, requests_per_s=0.3),
        model("cheap", 4, requests_per_s=0.1),
        model("dear", 4, requests_per_s=9),
        model("busy", 4),
    ]
    workers = [
        worker("w1", replica("middle", 4, idle_s=9), replica("busy", 4, ongoing=1)),
        worker("w2", replica("cheap", 4, idle_s=9), replica("dear", 4, idle_s=9)),
    ]

    assert placed(decide_on(models, workers)) == [("a", "w2", ("cheap-1",))]


def test_evict_obsolete_revisions_first() -> None:
    models = [model("a", 4, queued=1), model("b", 4)]
    full = worker("w", replica("b", 4, idle_s=50), replica("b", 4, revision=0, idle_s=1))

    assert placed(decide_on(models, [full])) == [("a", "w", ("b-0",))]


def test_evict_longest_idle_on_a_tie() -> None:
    models = [model("a", 8, queued=1), model("b", 8), model("c", 8)]
    workers = [worker("w1", replica("b", 8, idle_s=20)), worker("w2", replica("c", 8, idle_s=30))]

    assert placed(decide_on(models, workers)) == [("a", "w2", ("c-1",))]


def test_evict_what_leaves_anyway_although_it_is_dear() -> None:
    models = [
        model("a", 4, queued=1),
        model("dear", 4, requests_per_s=9),
        model("cheap", 4, requests_per_s=0.1),
    ]
    decision = decide_on(
        models, [worker("w", replica("dear", 4, idle_s=60), replica("cheap", 4, idle_s=50))]
    )

    assert placed(decision) == [("a", "w", ("dear-1",))]
    assert decision.detach == ()


def test_evict_fewest_bytes_on_a_tie() -> None:
    models = [model("a", 2, queued=1), model("b", 8), model("c", 6)]
    workers = [
        worker("w1", replica("b", 8, idle_s=9)),
        worker("w2", replica("c", 6, idle_s=9), gb=6),
    ]

    assert placed(decide_on(models, workers)) == [("a", "w2", ("c-1",))]


def test_evict_from_the_least_busy_on_a_tie() -> None:
    models = [model("a", 4, queued=1), model("b", 4), model("c", 4), model("d", 4)]
    workers = [
        worker("w1", replica("b", 4, idle_s=9), replica("d", 4, ongoing=1)),
        worker("w2", replica("c", 4, idle_s=9), replica("d", 4, phase=Phase.DRAINING)),
    ]

    assert placed(decide_on(models, workers)) == [("a", "w2", ("c-1",))]


def test_evict_waits_until_enough_may_go() -> None:
    """The worker holds one more than its slots: both replicas have to go."""
    models = [model("a", queued=1, cold_start_s=60), model("b"), model("c")]
    fresh = [replica("b", idle_s=0.75), replica("c", idle_s=0.25)]

    assert decide_on(models, [worker("w", *fresh, slots=1)]).wake_at_s == NOW_S + 0.25
    assert decide_on(models, [worker("w", *fresh, slots=1)], NOW_S + 0.25).attach == ()
    assert decide_on(models, [worker("w", *fresh, slots=1)], NOW_S + 0.25).wake_at_s == NOW_S + 0.75
    assert decide_on(models, [worker("w", *fresh, slots=1)], NOW_S + 0.75).attach


def test_evict_several_and_spare_what_turns_out_unneeded() -> None:
    models = [
        model("a", 6, queued=1),
        model("tiny", 1, requests_per_s=0.01),
        model("small", 2, requests_per_s=0.05),
        model("large", 5, requests_per_s=0.3),
    ]
    full = worker(
        "w",
        replica("tiny", 1, idle_s=9),
        replica("small", 2, idle_s=9),
        replica("large", 5, idle_s=9),
    )

    assert placed(decide_on(models, [full])) == [("a", "w", ("tiny-1", "large-1"))]


def test_evict_for_a_slot() -> None:
    models = [model("a", queued=1), model("b"), model("c", requests_per_s=1)]
    full = worker("w", replica("b", idle_s=9), replica("c", idle_s=9), slots=2)

    assert placed(decide_on(models, [full])) == [("a", "w", ("b-1",))]


def test_evict_never_for_min_replicas() -> None:
    decision = decide_on(
        [model("a", 8, config={"min_replicas": 1}), model("b", 8)],
        [worker("w", replica("b", 8, idle_s=30))],
    )

    assert decision.attach == ()
    assert decision.unplaced[0].reason == (
        "wants 1, has 0: needs 8.0 GB, at most 0 B is free "
        "and without queued requests it evicts nothing"
    )
    assert not decision.unplaced[0].permanent


def test_min_replicas_take_the_room_of_what_leaves_anyway() -> None:
    models = [model("a", 8, config={"min_replicas": 1}), model("b", 8)]
    obsolete = worker("w", replica("b", 8, revision=0))
    timed_out = worker("w", replica("b", 8, idle_s=60))

    assert placed(decide_on(models, [obsolete])) == [("a", "w", ("b-0",))]
    assert placed(decide_on(models, [timed_out])) == [("a", "w", ("b-1",))]


@pytest.mark.parametrize(
    "kept",
    [
        replica("b", 8, ongoing=1),
        replica("b", 8, phase=Phase.ATTACHING),
        replica("b", 8, phase=Phase.DRAINING),
        replica("b", 8, revision=0, ongoing=1),
        replica("b", 8, revision=0, phase=Phase.DRAINING),
    ],
)
def test_evict_only_ready_idle_replicas(kept: ReplicaSnapshot) -> None:
    decision = decide_on([model("a", 8, queued=1), model("b", 8)], [worker("w", kept)])

    assert (decision.attach, decision.detach) == ((), ())
    assert decision.unplaced[0].reason == (
        "wants 1, has 0: the worker is busy: needs 8.0 GB, at most 0 B is free "
        "and no more can be freed yet"
    )


def test_evict_never_below_min_replicas() -> None:
    models = [
        model("a", 8, queued=1, oldest_queued_since_s=0.0),
        model("b", 8, config={"min_replicas": 1}),
    ]
    decision = decide_on(models, [worker("w", replica("b", 8, idle_s=999))])

    assert (decision.attach, decision.detach, decision.wake_at_s) == ((), (), None)


def test_evict_does_not_count_attaching_replicas_as_kept() -> None:
    """The one that attaches may fail: the ready one keeps min_replicas until then."""
    models = [model("a", 8, queued=1), model("b", 8, config={"min_replicas": 1})]
    workers = [
        worker("w1", replica("b", 8, idle_s=99)),
        worker("w2", replica("b", 8, phase=Phase.ATTACHING)),
    ]
    decision = decide_on(models, workers)

    assert (decision.attach, decision.detach) == ((), ())


def test_evict_not_what_queued_requests_are_about_to_enter() -> None:
    models = [model("a", 8, queued=1), model("b", 8, queued=1)]

    assert decide_on(models, [worker("w", replica("b", 8, idle_s=30))]).attach == ()


def test_evict_headroom_for_a_model_at_zero() -> None:
    """6 requests want 2 replicas (target 5.6) and fit in one (8 at once)."""
    models = [model("a", 8, queued=1), model("b", 8)]
    workers = [worker("w1", replica("b", 8, ongoing=6)), worker("w2", replica("b", 8, idle_s=5))]
    decision = decide_on(models, workers)

    assert placed(decision) == [("a", "w2", ("b-1",))]
    assert [item.model for item in decision.unplaced] == ["b"]


def test_evict_leaves_what_the_requests_fill() -> None:
    models = [model("a", 8, queued=1), model("b", 8)]
    workers = [worker("w1", replica("b", 8, ongoing=9)), worker("w2", replica("b", 8, idle_s=5))]

    assert decide_on(models, workers).attach == ()


@pytest.mark.parametrize(("cold_start_s", "residency_s"), [(0.2, 1.0), (5.0, 5.0)])
def test_evict_only_after_the_residency(cold_start_s: float, residency_s: float) -> None:
    models = [
        model("a", 8, queued=1, cold_start_s=60),
        model("b", 8, cold_start_s=cold_start_s),
    ]
    fresh = worker("w", replica("b", 8, idle_s=residency_s - 0.5))
    settled = worker("w", replica("b", 8, idle_s=residency_s))

    assert decide_on(models, [fresh]).attach == ()
    assert decide_on(models, [fresh]).wake_at_s == NOW_S + 0.5
    assert placed(decide_on(models, [settled])) == [("a", "w", ("b-1",))]


def test_evict_within_the_residency_for_a_queue_that_waited_a_cold_start() -> None:
    victim = worker("w", replica("b", 8, idle_s=0.5))

    def newcomer(waited_s: float) -> list[ModelSnapshot]:
        since_s = NOW_S - waited_s
        queue = model("a", 8, queued=1, cold_start_s=2, oldest_queued_since_s=since_s)
        return [queue, model("b", 8, cold_start_s=30)]

    assert decide_on(newcomer(1.5), [victim]).attach == ()
    assert decide_on(newcomer(1.5), [victim]).wake_at_s == NOW_S + 0.5
    assert placed(decide_on(newcomer(2.0), [victim])) == [("a", "w", ("b-1",))]


def test_evict_surplus_room_serves_a_model_passed_over_before() -> None:
    """Patient "first" may not evict the fresh replica; what impatient "second" leaves is enough."""
    models = [
        model("first", 2, queued=1, cold_start_s=60, oldest_queued_since_s=NOW_S - 9),
        model("second", 2, queued=1, cold_start_s=1, oldest_queued_since_s=NOW_S - 5),
        model("victim", 8, cold_start_s=10),
    ]
    decision = decide_on(models, [worker("w", replica("victim", 8, idle_s=1))])

    assert placed(decision) == [("second", "w", ("victim-1",)), ("first", "w", ())]
    assert decision.unplaced == ()

    busy = worker("busy", replica("second", 2, ongoing=8), gb=2)
    decision = decide_on(models, [busy, worker("w", replica("victim", 8, idle_s=1))])

    assert placed(decision) == [("second", "w", ("victim-1",)), ("first", "w", ())]


# Nowhere to go


def test_unplaced_larger_than_every_worker_is_permanent() -> None:
    decision = decide_on([model("a", 13.5, queued=1)], [worker("w1", gb=8), worker("w2", gb=4)])

    assert decision.unplaced[0].reason == (
        "wants 1, has 0: needs 13.5 GB, largest worker holds 8.0 GB"
    )
    assert decision.unplaced[0].permanent
    assert decision.wake_at_s is None


def test_unplaced_busy_cluster_is_not_permanent() -> None:
    busy = [
        worker("w1", replica("b", 5, ongoing=1), gb=8),
        worker("w2", replica("b", 5, ongoing=1), gb=6),
    ]
    decision = decide_on([model("a", 4, queued=1), model("b", 5)], busy)

    assert decision.unplaced[0].reason == (
        "wants 1, has 0: all 2 workers are busy: needs 4.0 GB, at most 3.0 GB is free "
        "and no more can be freed yet"
    )
    assert not decision.unplaced[0].permanent


@pytest.mark.parametrize("workers", [[], [worker("w", slots=0)]])
def test_unplaced_without_a_worker(workers: list[WorkerSnapshot]) -> None:
    """The pool may be about to grow."""
    decision = decide_on([model("a", queued=1)], workers)

    assert decision.unplaced[0].reason == "wants 1, has 0: there is no worker"
    assert not decision.unplaced[0].permanent


# Detach


def test_detach_after_the_idle_timeout() -> None:
    workers = [worker("w", replica("a", idle_s=61.24), replica("b", idle_s=59))]
    decision = decide_on([model("a"), model("b")], workers)

    assert detached(decision) == [("a-1", "w")]
    assert str(decision.detach[0].reason) == "idle for 61.2 s, idle_timeout_s is 60"
    assert decision.wake_at_s == NOW_S + 1


def test_detach_keeps_min_replicas_and_takes_the_longest_idle() -> None:
    workers = [worker(f"w{n}", replica("a", idle_s=60 + n)) for n in (1, 3, 2)]
    decision = decide_on([model("a", config={"min_replicas": 1})], workers)

    assert detached(decision) == [("a-1", "w3")]


def test_detach_keeps_what_the_demand_wants() -> None:
    workers = [worker("w1", replica("a", ongoing=6)), worker("w2", replica("a", idle_s=90))]

    assert decide_on([model("a")], workers) == Decision()


def test_detach_at_once_without_a_timeout() -> None:
    asked = model("a", config={"idle_timeout_s": 0})

    assert detached(decide_on([asked], [worker("w", replica("a"))])) == [("a-1", "w")]


@pytest.mark.parametrize("models", [[], [model("a")]])
def test_detach_obsolete_revisions_as_soon_as_idle(models: list[ModelSnapshot]) -> None:
    decision = decide_on(
        models,
        [worker("w1", replica("a", revision=0)), worker("w2", replica("a", revision=0, ongoing=1))],
    )

    assert detached(decision) == [("a-0", "w1")]
    assert str(decision.detach[0].reason) == "idle, and no model lists revision a-0"


def test_detach_falls_back_to_the_phase_when_idle_time_is_unknown() -> None:
    unknown = ReplicaSnapshot("a", "a-1", GB, Phase.READY, NOW_S - 61, 0, None)

    assert detached(decide_on([model("a")], [worker("w", unknown)])) == [("a-1", "w")]


# Odd clocks


@pytest.mark.parametrize("now_s", [math.nan, math.inf, -math.inf, -1.0])
def test_now_must_be_a_time(now_s: float) -> None:
    with pytest.raises(InputError, match="now_s must be a finite number"):
        decide_on([], [], now_s)


def test_clock_that_went_back_makes_nothing_old() -> None:
    future = worker("w", replica("b", 8, idle_s=-5))
    models = [
        model("a", 8, queued=1, oldest_queued_since_s=NOW_S + 9, cold_start_s=60),
        model("b", 8),
    ]
    decision = decide_on(models, [future])

    assert (decision.attach, decision.detach) == ((), ())
    assert decision.wake_at_s == NOW_S + 6
