"""Policies by name: ours and those it is compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from pilotlight_autoscaler.autoscaler import Autoscaler
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.protocol import Policy
from pilotlight_autoscaler.simulation.baselines.keep_alive import Baseline
from pilotlight_autoscaler.simulation.baselines.knative import Knative
from pilotlight_autoscaler.simulation.baselines.ray_serve import RAY_DEFAULTS, RAY_TUNED, RayServe
from pilotlight_autoscaler.simulation.baselines.rules import (
    Clairvoyant,
    Fixed,
    GreedyDual,
    HybridHistogram,
    SkiRental,
)
from pilotlight_autoscaler.simulation.errors import SettingError
from pilotlight_autoscaler.simulation.setting import Setting
from pilotlight_autoscaler.simulation.trace import Trace

_FIXED = re.compile(r"fixed(\d{1,7})")


def make_policy(name: str, trace: Trace, setting: Setting) -> Policy:
    """A new policy, as it is before its first request. Raises SettingError for an unknown name."""
    check_policy(name)
    fixed = _FIXED.fullmatch(name)
    if fixed is not None:
        return Baseline(Fixed(float(fixed[1])))
    return _MAKERS[name](trace, setting)


def check_policy(name: str) -> None:
    """Raises SettingError, which lists those that exist, for an unknown name."""
    if name not in _MAKERS and _FIXED.fullmatch(name) is None:
        raise SettingError(f"no policy {name!r}: there are {', '.join(policy_names())}")


def policy_names() -> tuple[str, ...]:
    """Those that exist; ``fixedN`` stands for a fixed keep-alive of N seconds."""
    return (*_MAKERS, "fixedN")


def _pilotlight(trace: Trace, setting: Setting) -> Policy:
    pool = setting.pool
    most = pool.nodes * pool.workers_per_node
    # Nobody reads a simulated reason; its orders are those of production.
    return Autoscaler(PoolConfig(max_workers=most, buffer_workers=min(1, most)), words=False)


def _clairvoyant(trace: Trace, setting: Setting) -> Policy:
    cold_start_s = {model.name: model.cold_start_s for model in setting.models}
    return Baseline(Clairvoyant(trace, cold_start_s, setting.prices.cold_start_weight))


_MAKERS: dict[str, Callable[[Trace, Setting], Policy]] = {
    "pilotlight": _pilotlight,
    "ray": lambda trace, setting: RayServe(RAY_DEFAULTS),
    "ray-tuned": lambda trace, setting: RayServe(RAY_TUNED),
    "knative": lambda trace, setting: Knative(),
    "hybrid": lambda trace, setting: Baseline(HybridHistogram()),
    "ski": lambda trace, setting: Baseline(SkiRental(setting.prices.cold_start_weight)),
    "lru": lambda trace, setting: Baseline(Fixed(math.inf)),
    "gdsf": lambda trace, setting: Baseline(Fixed(math.inf), GreedyDual()),
    "clairvoyant": _clairvoyant,
}
