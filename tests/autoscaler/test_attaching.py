"""When replicas are started, how many, and for which model first: one example per rule."""

from typing import Any

import pytest
from support.snapshots import NOW_S, decide_on, model, placed, replica, worker

from pilotlight_autoscaler import Decision, Phase


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
