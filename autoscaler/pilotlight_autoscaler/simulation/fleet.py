"""Settings for a trace: models whose cold starts differ, pools that hold all or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.setting import Pool, Prices, Setting, SimulatedModel
from pilotlight_autoscaler.simulation.trace import Trace

COLD_STARTS_S = (2.0, 4.0, 8.0, 15.0, 30.0)
_DISK_BYTES_PER_S = 2e9


def cold_starts_s(names: Sequence[str], seed: int) -> list[float]:
    """One of COLD_STARTS_S per model, drawn by seed."""
    random = Random(f"fleet/{seed}")
    return [random.choice(COLD_STARTS_S) for _ in names]


def make_setting(
    trace: Trace,
    starts_s: Sequence[float],
    *,
    config: AutoscalingConfig,
    pool: Pool | None = None,
    prices: Prices | None = None,
    seed: int = 0,
) -> Setting:
    """Models as large as *starts_s* at 2 GB/s from disk; without *pool* each has its own node."""
    models = tuple(
        SimulatedModel(
            name=name, nbytes=int(start_s * _DISK_BYTES_PER_S), config=config, cold_start_s=start_s
        )
        for name, start_s in zip(trace.names, starts_s, strict=True)
    )
    roomy = Pool(nodes=len(models) * config.max_replicas)
    return Setting(models=models, pool=pool or roomy, prices=prices or Prices(), seed=seed)
