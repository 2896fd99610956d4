"""Which worker gets a replica, and what is said where none can: one example per rule."""

import pytest
from support.snapshots import decide_on, model, placed, replica, worker

from pilotlight_autoscaler import WorkerSnapshot


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
