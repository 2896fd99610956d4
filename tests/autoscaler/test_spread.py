"""`placement.spread`: replicas of one model on different nodes first."""

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    ModelSnapshot,
    NodeSnapshot,
    Phase,
    PoolConfig,
    ReplicaSnapshot,
    Tier,
    WorkerSnapshot,
)

GB = 10**9
NODES = {"w0": "x", "w1": "x", "w2": "y", "w3": "y"}


def start(*, spread: bool, replicas: int, near: str = "x", **held: ReplicaSnapshot) -> list[str]:
    """The workers that *replicas* go to at once; the weights are on the disk of *near* alone."""
    autoscaler = Autoscaler(PoolConfig(min_workers=4, max_workers=4))
    for node_id in ("x", "y"):
        tiers = {"a-1": Tier.DISK} if node_id == near else {}
        autoscaler.update_node(NodeSnapshot(node_id, tiers))
    for worker_id, node_id in NODES.items():
        here = (held[worker_id],) if worker_id in held else ()
        autoscaler.update_worker(WorkerSnapshot(worker_id, node_id, GB, 1, here))
    config = AutoscalingConfig.model_validate(
        {"min_replicas": replicas, "max_replicas": 4, "placement": {"spread": spread}}
    )
    autoscaler.update_model(ModelSnapshot("a", "a-1", GB, config))
    return sorted(each.worker_id for each in autoscaler.decide(1000.0).attach)


def ready(model: str) -> ReplicaSnapshot:
    return ReplicaSnapshot(model, f"{model}-1", GB, Phase.READY, 990.0, 1, None)


def test_without_spread_replicas_go_where_they_start_soonest() -> None:
    assert start(spread=False, replicas=2) == ["w0", "w1"]


def test_spread_takes_another_node_first() -> None:
    assert start(spread=True, replicas=2) == ["w0", "w2"]


def test_spread_puts_the_first_one_where_it_starts_soonest() -> None:
    assert start(spread=True, replicas=1, near="y") == ["w2"]


def test_spread_shares_a_node_when_each_has_one() -> None:
    assert start(spread=True, replicas=3) == ["w0", "w1", "w2"]


def test_spread_counts_those_that_are_there() -> None:
    assert start(spread=True, replicas=2, w1=ready("a")) == ["w2"]


def test_spread_is_of_one_model_not_of_all() -> None:
    assert start(spread=True, replicas=1, w1=ready("b")) == ["w0"]


def test_spread_of_the_first_one_evicts_nothing_while_a_worker_is_free() -> None:
    """Also where its weights are farther away."""
    autoscaler = Autoscaler(PoolConfig(min_workers=2, max_workers=2))
    autoscaler.update_node(NodeSnapshot("x", {"a-1": Tier.DISK}))
    autoscaler.update_node(NodeSnapshot("y"))
    idle = ReplicaSnapshot("b", "b-1", GB, Phase.READY, 500.0, 0, 600.0)
    autoscaler.update_worker(WorkerSnapshot("w0", "x", GB, 1, (idle,)))
    autoscaler.update_worker(WorkerSnapshot("w1", "y", GB, 1))
    config = AutoscalingConfig.model_validate({"placement": {"spread": True}})
    autoscaler.update_model(ModelSnapshot("a", "a-1", GB, config))
    autoscaler.update_model(ModelSnapshot("b", "b-1", GB, AutoscalingConfig(idle_timeout_s=9000)))
    autoscaler.update_queue("a", 1, 1000.0)
    (attach,) = autoscaler.decide(1000.0).attach

    assert (attach.worker_id, attach.evict) == ("w1", ())


def test_spread_evicts_nothing_while_a_worker_is_free() -> None:
    autoscaler = Autoscaler(PoolConfig(min_workers=3, max_workers=3))
    autoscaler.update_worker(WorkerSnapshot("w0", "x", GB, 1, (ready("a"),)))
    autoscaler.update_worker(WorkerSnapshot("w1", "x", GB, 1))
    idle = ReplicaSnapshot("b", "b-1", GB, Phase.READY, 500.0, 0, 600.0)
    autoscaler.update_worker(WorkerSnapshot("w2", "y", GB, 1, (idle,)))
    config = AutoscalingConfig.model_validate(
        {"max_replicas": 3, "max_ongoing_requests": 1, "placement": {"spread": True}}
    )
    autoscaler.update_model(ModelSnapshot("a", "a-1", GB, config))
    autoscaler.update_model(ModelSnapshot("b", "b-1", GB, AutoscalingConfig(idle_timeout_s=9000)))
    autoscaler.update_queue("a", 1, 1000.0)
    (attach,) = autoscaler.decide(1000.0).attach

    assert (attach.worker_id, attach.evict) == ("w1", ())
