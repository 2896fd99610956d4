"""Snapshots for the policy, and what it decides on them. The clock stands at NOW_S; sizes in GB."""

from dataclasses import replace
from typing import Any

from pilotlight_autoscaler import (
    AutoscalingConfig,
    ClusterSnapshot,
    Decision,
    ModelSnapshot,
    Phase,
    PolicyState,
    PoolConfig,
    ReplicaSnapshot,
    WorkerSnapshot,
    decide,
)

NOW_S = 1000.0
GB = 10**9


def model(
    name: str, gb: float = 1, *, config: dict[str, Any] | None = None, **asked: Any
) -> ModelSnapshot:
    if asked.get("queued"):
        asked.setdefault("oldest_queued_since_s", NOW_S - 0.1)
    settings = AutoscalingConfig.model_validate(
        {"max_replicas": 4, "idle_timeout_s": 60, **(config or {})}
    )
    return ModelSnapshot(name, f"{name}-1", int(gb * GB), settings, **asked)


def replica(
    name: str,
    gb: float = 1,
    *,
    revision: int = 1,
    phase: Phase = Phase.READY,
    ongoing: int = 0,
    idle_s: float = 0.0,
) -> ReplicaSnapshot:
    idle_since_s = NOW_S - idle_s if phase is Phase.READY and not ongoing else None
    return ReplicaSnapshot(
        name, f"{name}-{revision}", int(gb * GB), phase, NOW_S - idle_s, ongoing, idle_since_s
    )


def worker(name: str, *replicas: ReplicaSnapshot, gb: float = 8, slots: int = 8) -> WorkerSnapshot:
    return WorkerSnapshot(name, "node", int(gb * GB), slots, replicas)


def decide_on(
    models: list[ModelSnapshot], workers: list[WorkerSnapshot], now_s: float = NOW_S
) -> Decision:
    """What a policy that remembers nothing decides; without the pool and what it did not do."""
    cluster = ClusterSnapshot(tuple(workers))
    # A pool that is as large as it may be: its own wake-ups stay out of these examples.
    pool = PoolConfig(min_workers=1, max_workers=1)
    decision, _ = decide(cluster, tuple(models), pool, PolicyState(), now_s)
    return replace(decision, pool=None, reasons=())


def placed(decision: Decision) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(action.model, action.worker_id, action.evict) for action in decision.attach]
