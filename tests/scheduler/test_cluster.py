"""The scheduler's picture of the cluster: what counts as there, as going, as wanted."""

from typing import Any

from support.records import model_record

from pilotlight_autoscaler import Phase
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.live_model import DEMAND_TTL_S
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaPhase,
    ReplicaReport,
    WorkerInfo,
    WorkerReport,
)


def replica(model: str, phase: ReplicaPhase = "ready", **change: Any) -> ReplicaReport:
    values = {"revision_id": f"{model}-1", "nbytes": 100, "since_s": 1.0, "ongoing": 0}
    return ReplicaReport(model=model, phase=phase, idle_since_s=1.0, **{**values, **change})


def build(*replicas: ReplicaReport) -> tuple[Cluster, WorkerState]:
    cluster = Cluster({name: model_record(name, nbytes=100) for name in ("a", "b")})
    worker = cluster.join(WorkerInfo("w", "node", 1, 1, 1000, 4))
    worker.observe(WorkerReport(1, replicas))
    return cluster, worker


def test_cluster_ordered_replica_is_routable_before_it_is_reported() -> None:
    cluster, worker = build()
    worker.order(AttachOrder("a", "a-1", "/c", 100), 5.0)

    assert [(r.worker_id, r.ready) for r in cluster.replicas("a")] == [("w", False)]


def test_cluster_victim_of_an_order_drains_and_is_not_routed() -> None:
    cluster, worker = build(replica("b"))
    worker.order(AttachOrder("a", "a-1", "/c", 100, evict=("b-1",)), 5.0)
    phases = {r.model: r.phase for r in worker.snapshot().replicas}

    assert cluster.replicas("b") == ()
    assert phases == {"a": Phase.ATTACHING, "b": Phase.DRAINING}


def test_cluster_replica_that_leaves_is_not_routed() -> None:
    cluster, worker = build(replica("a"))
    worker.leave("a-1")

    assert cluster.replicas("a") == ()


def test_cluster_old_revision_is_not_routed() -> None:
    cluster, _ = build(replica("a", revision_id="a-0"))

    assert cluster.replicas("a") == ()


def test_cluster_older_report_does_not_replace_a_later_one() -> None:
    _, worker = build(replica("a"))
    worker.observe(WorkerReport(3, ()))
    worker.observe(WorkerReport(2, (replica("a"),)))

    assert worker.report.replicas == ()


def test_cluster_demand_that_is_not_repeated_is_forgotten_in_time() -> None:
    cluster, _ = build()
    cluster.models["a"].want("gateway", 3, now_s=10.0)
    cluster.expire_demand(10.0)

    assert cluster.models["a"].snapshot().queued == 3
    assert cluster.demand_expires_s() == 10.0 + DEMAND_TTL_S
    cluster.expire_demand(10.0 + DEMAND_TTL_S)
    assert cluster.models["a"].snapshot().queued == 0
    assert cluster.demand_expires_s() is None


def test_cluster_oldest_wait_is_that_of_the_first_request() -> None:
    cluster, _ = build()
    cluster.models["a"].want("gateway", 1, now_s=10.0)
    cluster.models["a"].want("gateway", 2, now_s=12.0)

    assert cluster.models["a"].snapshot().oldest_queued_since_s == 10.0


def test_cluster_checkpoint_being_attached_is_in_use_after_its_model_has_gone() -> None:
    cluster, worker = build()
    worker.order(AttachOrder("old", "old-1", "/old", 100), 5.0)

    assert cluster.checkpoints_in_use() == {"/checkpoint", "/old"}


def test_cluster_checkpoint_that_is_arriving_is_in_use() -> None:
    cluster, _ = build()
    with cluster.arriving("/new"):
        used = cluster.checkpoints_in_use()

    assert "/new" in used
    assert "/new" not in cluster.checkpoints_in_use()


def test_cluster_has_room_for_what_its_replicas_do_not_run() -> None:
    cluster, _ = build(replica("a", ongoing=5))
    limit = cluster.models["a"].record.spec.autoscaling.max_ongoing_requests

    assert cluster.has_room("a", limit - 5, 5)
    assert not cluster.has_room("a", limit - 4, 5)


def test_cluster_has_no_room_in_a_replica_that_leaves() -> None:
    cluster, worker = build(replica("a"))
    worker.leave("a-1")

    assert not cluster.has_room("a", 1, 0)


def test_cluster_has_no_room_in_slots_that_no_report_shows_yet() -> None:
    cluster, _ = build(replica("a"))
    limit = cluster.models["a"].record.spec.autoscaling.max_ongoing_requests

    assert not cluster.has_room("a", 1, limit)
