"""What would poison later decisions is refused, whoever tells it, and named."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.snapshots import GB

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    InputError,
    ModelSnapshot,
    NodeSnapshot,
    Phase,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)

MODEL = ModelSnapshot("a", "a-1", 1, AutoscalingConfig())
WORKER = WorkerSnapshot("w", "n", 9, 1)
REPLICA = ReplicaSnapshot("a", "a-1", 1, Phase.READY, 1.0, 0, 1.0)

TOLD: dict[str, Callable[[Autoscaler, float], object]] = {
    "nbytes of model 'a'": lambda a, bad: a.update_model(replace(MODEL, nbytes=bad)),
    "queued of model 'a'": lambda a, bad: a.update_queue("a", bad, None),  # type: ignore[arg-type]
    "oldest_queued_since_s of model 'a'": lambda a, bad: a.update_queue("a", 1, bad),
    "capacity_bytes of worker 'w'": lambda a, bad: a.update_worker(
        replace(WORKER, capacity_bytes=bad)
    ),
    "load_queue_s of worker 'w'": lambda a, bad: a.update_worker(replace(WORKER, load_queue_s=bad)),
    "since_s of replica 'a-1'": lambda a, bad: a.update_replica("w", replace(REPLICA, since_s=bad)),
    "ongoing of replica 'a-1'": lambda a, bad: a.update_replica("w", replace(REPLICA, ongoing=bad)),
    "idle_since_s of replica 'a-1'": lambda a, bad: a.update_replica(
        "w", replace(REPLICA, idle_since_s=bad)
    ),
    "ongoing of replica 'a-2'": lambda a, bad: a.update_load("w", "a-2", bad, None),  # type: ignore[arg-type]
    "idle_since_s of replica 'a-2'": lambda a, bad: a.update_load("w", "a-2", 0, bad),
    "bytes_per_s of tier disk of node 'n'": lambda a, bad: a.update_node(
        NodeSnapshot("n", {}, {Tier.DISK: bad})
    ),
    "since_s of starting worker 'v'": lambda a, bad: a.update_starting((StartingWorker("v", bad),)),
    "at_s of an arrival": lambda a, bad: a.arrived("a", bad),
    "at_s of an end": lambda a, bad: a.finished("a", bad, 0),
    "service_s of an end": lambda a, bad: a.finished("a", 1.0, 0, bad),
    "seconds of a cold start of model 'a'": lambda a, bad: a.cold_started("a", Tier.DISK, bad),
    "now_s": lambda a, bad: a.decide(bad),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("what", TOLD)
def test_autoscaler_refuses_by_name_whatever_it_is_told(what: str, value: float) -> None:
    autoscaler = Autoscaler()
    autoscaler.update_model(MODEL)
    autoscaler.update_worker(WORKER)
    autoscaler.update_replica("w", replace(REPLICA, revision_id="a-2"))

    with pytest.raises(InputError, match=f"^{what} must be a finite number of at least 0, not"):
        TOLD[what](autoscaler, value)


def test_autoscaler_refuses_a_speed_of_nothing() -> None:
    with pytest.raises(InputError, match="bytes_per_s of tier disk of node 'n' is 0"):
        Autoscaler().update_node(NodeSnapshot("n", {}, {Tier.DISK: 0.0}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["cold_start_s", "service_s", "requests_per_s", "retry_at_s"])
def test_autoscaler_refuses_a_model_by_the_name_of_its_field(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} of model 'a' must be a finite number"):
        Autoscaler().update_model(replace(MODEL, **{field: value}))


def test_autoscaler_refuses_what_it_was_never_told_of() -> None:
    with pytest.raises(InputError, match="there is no model 'a'"):
        Autoscaler().arrived("a", 1.0)


def test_load_of_a_replica_that_nobody_has_told_of_is_refused() -> None:
    autoscaler = Autoscaler()
    autoscaler.update_worker(WorkerSnapshot("w0", "node", GB, 1))

    with pytest.raises(InputError, match="'w0' has no revision 'a-1': update_replica comes first"):
        autoscaler.update_load("w0", "a-1", 1, None)
