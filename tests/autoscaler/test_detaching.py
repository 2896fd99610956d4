"""When an idle replica leaves though nobody needs its room: one example per rule."""

import pytest
from support.snapshots import GB, NOW_S, decide_on, model, replica, worker

from pilotlight_autoscaler import Decision, ModelSnapshot, Phase, ReplicaSnapshot


def detached(decision: Decision) -> list[tuple[str, str]]:
    return [(action.revision_id, action.worker_id) for action in decision.detach]


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
