"""What has to go for a queue, and what never does: one example per rule of the policy."""

import pytest
from support.snapshots import NOW_S, decide_on, model, placed, replica, worker

from pilotlight_autoscaler import ModelSnapshot, Phase, ReplicaSnapshot, Rule


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


def test_evict_headroom_that_starts_again_where_its_evictor_is_already() -> None:
    models = [model("a", 2, queued=9, config={"max_replicas": 2}), model("b", 6)]
    workers = [
        worker("w0", replica("a", 2, ongoing=8)),
        worker("w1", replica("b", 6, ongoing=6), gb=6),
        worker("w2", replica("b", 6, idle_s=5), gb=6),
    ]
    decision = decide_on(models, workers)

    assert placed(decision) == [("a", "w2", ("b-1",)), ("b", "w0", ())]
    assert decision.attach[1].reason.rule is Rule.LOAD
    assert decision.unplaced == ()
