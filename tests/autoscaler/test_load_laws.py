"""What a constant load comes to: no fewer replicas for more of it, and then rest."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    ModelSnapshot,
    Phase,
    ReplicaSnapshot,
    WorkerSnapshot,
)

MOST = 9
MODEL = ModelSnapshot(
    "a", "a-1", 1, AutoscalingConfig(max_replicas=MOST, target_ongoing_requests=4)
)
SETTLES_S = 120  # two stable windows


def replicas_over_time(load: int) -> list[int]:
    """How many there are each second, under *load* requests spread evenly; starts take no time."""
    autoscaler = Autoscaler()
    autoscaler.update_model(MODEL)
    for n in range(MOST):
        autoscaler.update_worker(WorkerSnapshot(f"w{n}", "node", 1, 1))
    held: set[str] = set()
    counts = []
    for second in range(2 * SETTLES_S):
        now_s = 1000.0 + second
        for n, worker_id in enumerate(sorted(held)):
            ongoing = load // len(held) + (n < load % len(held))
            idle_s = None if ongoing else now_s
            autoscaler.update_replica(
                worker_id, ReplicaSnapshot("a", "a-1", 1, Phase.READY, 1000.0, ongoing, idle_s)
            )
        autoscaler.update_queue("a", 0 if held else load, None if held or not load else now_s)
        decision = autoscaler.decide(now_s)
        held |= {order.worker_id for order in decision.attach}
        for order in decision.detach:
            held.discard(order.worker_id)
            autoscaler.update_worker(WorkerSnapshot(order.worker_id, "node", 1, 1))
        counts.append(len(held))
    return counts


@given(loads=st.lists(st.integers(0, 60), min_size=2, max_size=2).map(sorted))
@settings(max_examples=30, deadline=None)
def test_more_load_comes_to_no_fewer_replicas(loads: list[int]) -> None:
    less, more = (replicas_over_time(load)[-1] for load in loads)

    assert less <= more


@given(load=st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_constant_load_comes_to_what_carries_it_and_stays(load: int) -> None:
    counts = replicas_over_time(load)

    assert set(counts[SETTLES_S:]) == {min(MOST, -(-load // 4))}
