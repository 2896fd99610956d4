"""Which weights are near on which node, as its workers have shown."""

import pytest
from support.records import model_record

from pilotlight_autoscaler import Autoscaler, NodeSnapshot, PoolConfig, Tier
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import ReplicaReport, WorkerInfo, WorkerReport

RATES = {"host": 5e9, "disk": 1e9, "device": 2e10}


def join(cluster: Cluster, worker_id: str, node_id: str, memory_bytes: int = 1000) -> None:
    info = WorkerInfo(worker_id, node_id, 1, 1, 1000, 4, memory_bytes, RATES)
    cluster.join(info).observe(WorkerReport(1))


def attach(cluster: Cluster, worker_id: str, *models: str, at_s: float = 1.0) -> None:
    """The worker reports these, all their pages there."""
    worker = cluster.workers[worker_id]
    replicas = tuple(
        ReplicaReport(name, f"{name}-1", 400, "ready", at_s, 0, at_s, "disk", at_s)
        for name in models
    )
    worker.observe(WorkerReport(worker.report.number + 1, replicas))


def node(cluster: Cluster, node_id: str) -> NodeSnapshot:
    found = cluster.nodes.snapshot(node_id)
    assert found is not None
    return found


def build() -> Cluster:
    return Cluster({name: model_record(name, nbytes=400) for name in ("a", "b", "c")})


def test_node_has_what_was_prepared_on_its_disk_and_what_was_attached_in_memory() -> None:
    cluster = build()
    join(cluster, "w", "n")
    cluster.nodes.prepared("n", "a-1")
    cluster.nodes.prepared("n", "b-1")
    attach(cluster, "w", "b")

    assert node(cluster, "n").tiers == {"a-1": Tier.DISK, "b-1": Tier.HOST}


def test_node_has_the_rates_that_its_workers_read() -> None:
    cluster = build()
    join(cluster, "w", "n")

    assert node(cluster, "n").bytes_per_s == {Tier.HOST: 5e9, Tier.DISK: 1e9}


def test_node_keeps_in_memory_what_was_detached() -> None:
    cluster = build()
    join(cluster, "w", "n")
    attach(cluster, "w", "a")
    attach(cluster, "w")

    assert node(cluster, "n").tiers == {"a-1": Tier.HOST}


def test_node_whose_memory_later_weights_filled_has_the_earlier_ones_on_disk() -> None:
    cluster = build()
    join(cluster, "w", "n", memory_bytes=1000)
    for at_s, name in enumerate(("a", "b", "c"), 1):
        attach(cluster, "w", name, at_s=float(at_s))

    assert node(cluster, "n").tiers == {"a-1": Tier.DISK, "b-1": Tier.HOST, "c-1": Tier.HOST}


def test_node_that_attaches_again_has_it_in_memory_again() -> None:
    cluster = build()
    join(cluster, "w", "n", memory_bytes=400)
    for at_s, name in enumerate(("a", "b", "a"), 1):
        attach(cluster, "w", name, at_s=float(at_s))

    assert node(cluster, "n").tiers == {"a-1": Tier.HOST, "b-1": Tier.DISK}


def test_node_forgets_a_model_that_was_deleted() -> None:
    cluster = build()
    join(cluster, "w", "n")
    attach(cluster, "w", "a")
    cluster.remove("a")

    assert node(cluster, "n").tiers == {}


def test_node_goes_with_its_last_worker() -> None:
    cluster = build()
    join(cluster, "w0", "n")
    join(cluster, "w1", "n")
    cluster.lose("w0")
    one_left = cluster.nodes.snapshot("n")
    cluster.lose("w1")

    assert one_left is not None
    assert cluster.nodes.snapshot("n") is None


@pytest.mark.parametrize("warm", ["w0", "w1"])
def test_node_with_the_weights_in_memory_gets_the_replica(warm: str) -> None:
    cluster = build()
    told = Told(Autoscaler(PoolConfig(min_workers=2, max_workers=2, buffer_workers=0)))
    join(cluster, "w0", "n0")
    join(cluster, "w1", "n1")
    for node_id in ("n0", "n1"):
        cluster.nodes.prepared(node_id, "a-1")
    attach(cluster, warm, "a", at_s=500.0)
    attach(cluster, warm)
    told.decide(cluster, 1000.0)
    cluster.models["a"].want("g", 1, 1000.0)
    decision = told.decide(cluster, 1000.0)

    assert [each.worker_id for each in decision.attach] == [warm]
