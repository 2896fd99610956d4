"""How long one decision takes with 1,000 models on 100 workers."""

from __future__ import annotations

import time

from pilotlight_autoscaler.autoscaler import Autoscaler
from pilotlight_autoscaler.pool_config import PoolConfig

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.snapshot import ModelSnapshot, Phase, ReplicaSnapshot, WorkerSnapshot

MODELS, WORKERS = 1000, 100
_GAPS = 20  # that each model's histogram has seen
_RUNS = 200
_FULL_RUNS = 20
_NBYTES = 1_000_000_000


def incremental_ms() -> list[float]:
    """One model has had a request since the last decision."""
    policy, now_s = _settled()
    times_ms = []
    for run in range(_RUNS):
        now_s += 0.1
        began_s = time.perf_counter()
        _request(policy, run % MODELS, now_s)
        policy.decide(now_s)
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return times_ms


def full_ms() -> list[float]:
    """Every model has had one."""
    policy, now_s = _settled()
    times_ms = []
    for _ in range(_FULL_RUNS):
        now_s += 0.1
        for model in range(MODELS):
            _request(policy, model, now_s)
        began_s = time.perf_counter()
        policy.decide(now_s)
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return times_ms


def _settled() -> tuple[Autoscaler, float]:
    """All models ready, ten on each worker, with a past."""
    policy = Autoscaler(PoolConfig(max_workers=WORKERS))
    now_s = 0.0
    config = AutoscalingConfig()
    for model in range(MODELS):
        policy.update_model(ModelSnapshot(f"m{model}", f"m{model}", _NBYTES, config))
    for worker in range(WORKERS):
        policy.update_worker(WorkerSnapshot(f"w{worker}", "n", 20 * _NBYTES, 20))
    for gap in range(_GAPS):
        now_s += 5.0 + gap
        for model in range(MODELS):
            _request(policy, model, now_s)
        policy.decide(now_s)
    return policy, now_s


def _request(policy: Autoscaler, model: int, now_s: float) -> None:
    """A request that has come and gone."""
    name = f"m{model}"
    policy.arrived(name, now_s)
    policy.finished(name, now_s, 0, 0.05)
    policy.update_replica(
        f"w{model % WORKERS}",
        ReplicaSnapshot(name, name, _NBYTES, Phase.READY, 0.0, 0, now_s),
    )
