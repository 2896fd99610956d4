"""The cluster as the admin API shows it."""

from __future__ import annotations

from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.live_model import Model
from pilotlight_platform.schemas.model import (
    ModelState,
    ModelStatus,
    ReplicaStatus,
    WorkerStatus,
)


def model_statuses(cluster: Cluster, now_s: float) -> list[ModelStatus]:
    return [_model_status(cluster, name, now_s) for name in sorted(cluster.models)]


def worker_statuses(cluster: Cluster) -> list[WorkerStatus]:
    return [
        WorkerStatus(
            worker_id=worker.info.worker_id,
            node_id=worker.info.node_id,
            pid=worker.info.pid,
            threads=worker.info.threads,
            capacity_bytes=worker.info.capacity_bytes,
            attached=sorted({replica.model for replica in worker.replicas()}),
            leaving=worker.info.worker_id in cluster.leaving,
        )
        for worker in cluster.workers.values()
    ]


def _model_status(cluster: Cluster, name: str, now_s: float) -> ModelStatus:
    model = cluster.models[name]
    replicas = [
        ReplicaStatus(
            worker_id=worker_id,
            revision_id=replica.revision_id,
            phase=replica.phase,
            ongoing=replica.ongoing,
        )
        for worker_id, replica in cluster.held(name)
    ]
    return ModelStatus(
        name=name,
        state=_state(model, replicas, now_s),
        record=model.record,
        queued=model.queued,
        replicas=replicas,
        last_error=model.last_error,
    )


def _state(model: Model, replicas: list[ReplicaStatus], now_s: float) -> ModelState:
    phases = {replica.phase for replica in replicas}
    if phases & {"ready", "draining"}:
        return "ready"
    if "attaching" in phases:
        return "attaching"
    return "failed" if model.retry_at_s > now_s else "zero"
