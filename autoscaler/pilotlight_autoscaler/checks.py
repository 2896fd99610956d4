"""Refuses by name what would poison every later decision: NaN, infinities, negative amounts."""

from __future__ import annotations

from math import inf

from pilotlight_autoscaler.errors import InputError
from pilotlight_autoscaler.snapshot import (
    ModelSnapshot,
    NodeSnapshot,
    ReplicaSnapshot,
    StartingWorker,
    WorkerSnapshot,
)


def require(value: float, what: str) -> None:
    """Raises InputError unless *value* is finite and not negative (NaN compares false)."""
    if not 0 <= value < inf:
        raise InputError(f"{what} must be a finite number of at least 0, not {value}")


def check_model(model: ModelSnapshot) -> None:
    of = f"of model {model.name!r}"
    require(model.nbytes, f"nbytes {of}")
    require(model.cold_start_s, f"cold_start_s {of}")
    require(model.service_s, f"service_s {of}")
    require(model.requests_per_s, f"requests_per_s {of}")
    require(model.retry_at_s, f"retry_at_s {of}")
    check_queue(model.name, model.queued, model.oldest_queued_since_s)


def check_queue(model: str, queued: int, oldest_queued_since_s: float | None) -> None:
    if 0 <= queued < inf and (oldest_queued_since_s is None or 0 <= oldest_queued_since_s < inf):
        return
    require(queued, f"queued of model {model!r}")
    if oldest_queued_since_s is not None:
        require(oldest_queued_since_s, f"oldest_queued_since_s of model {model!r}")


def check_worker(worker: WorkerSnapshot) -> None:
    of = f"of worker {worker.worker_id!r}"
    require(worker.capacity_bytes, f"capacity_bytes {of}")
    require(worker.max_replicas, f"max_replicas {of}")
    require(worker.load_queue_s, f"load_queue_s {of}")
    for replica in worker.replicas:
        check_replica(replica)
    if len({replica.revision_id for replica in worker.replicas}) < len(worker.replicas):
        raise InputError(f"worker {worker.worker_id!r} lists a revision twice")


def check_replica(replica: ReplicaSnapshot) -> None:
    if not (0 <= replica.since_s < inf and 0 <= replica.nbytes < inf):
        of = f"of replica {replica.revision_id!r}"
        require(replica.since_s, f"since_s {of}")
        require(replica.nbytes, f"nbytes {of}")
    check_load(replica.revision_id, replica.ongoing, replica.idle_since_s)


def check_end(at_s: float, left: int, service_s: float | None) -> None:
    # As below: this runs for every request, too.
    if 0 <= at_s < inf and 0 <= left < inf and (service_s is None or 0 <= service_s < inf):
        return
    require(at_s, "at_s of an end")
    require(left, "left of an end")
    if service_s is not None:
        require(service_s, "service_s of an end")


def check_load(revision_id: str, ongoing: int, idle_since_s: float | None) -> None:
    # One expression for the usual case: this runs for every request.
    if 0 <= ongoing < inf and (idle_since_s is None or 0 <= idle_since_s < inf):
        return
    of = f"of replica {revision_id!r}"
    require(ongoing, f"ongoing {of}")
    if idle_since_s is not None:
        require(idle_since_s, f"idle_since_s {of}")


def check_node(node: NodeSnapshot) -> None:
    for tier, rate in node.bytes_per_s.items():
        require(rate, f"bytes_per_s of tier {tier} of node {node.node_id!r}")
        if rate == 0:
            raise InputError(f"bytes_per_s of tier {tier} of node {node.node_id!r} is 0")


def check_starting(starting: tuple[StartingWorker, ...]) -> None:
    for worker in starting:
        require(worker.since_s, f"since_s of starting worker {worker.worker_id!r}")
