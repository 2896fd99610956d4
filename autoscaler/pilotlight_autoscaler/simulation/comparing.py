"""One policy on one trace, and policies compared at equal worker-hours. Values in, values out."""

from __future__ import annotations

import math
from collections.abc import Callable

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.engine import OnProgress, Simulation
from pilotlight_autoscaler.simulation.fleet import make_setting
from pilotlight_autoscaler.simulation.optimum import per_gap_optimum
from pilotlight_autoscaler.simulation.policies import make_policy
from pilotlight_autoscaler.simulation.regimes import Regime, StopAdversary
from pilotlight_autoscaler.simulation.result import Result, summarize
from pilotlight_autoscaler.simulation.setting import Setting
from pilotlight_autoscaler.simulation.trace import Trace


def simulate(
    trace: Trace,
    setting: Setting,
    policy: str,
    *,
    label: str | None = None,
    optimum_s: float | None = None,
    on_progress: OnProgress | None = None,
) -> Result:
    """Run one policy from its beginning; *label* names its result.

    Raises SettingError, InvariantError.
    """
    made = make_policy(policy, trace, setting)
    meters = Simulation(trace, setting, made, on_progress=on_progress).run()
    return summarize(label or policy, meters, setting.prices, optimum_s)


def optimum_s(trace: Trace, setting: Setting) -> float:
    """The clairvoyant keep-alive's cost; for one replica per model and room for all."""
    starts_s = [model.cold_start_s for model in setting.models]
    return per_gap_optimum(trace, starts_s, setting.prices.cold_start_weight).cost_s


def simulate_regime(regime: Regime, policy: str, config: AutoscalingConfig, seed: int) -> Result:
    """Run one trace of the adversarial suite, beside the optimum of what was really asked."""
    setting = make_setting(regime.trace, [regime.cold_start_s], config=config, seed=seed)
    made = make_policy(policy, regime.trace, setting)
    adversary = StopAdversary() if regime.adaptive else None
    run = Simulation(regime.trace, setting, made, adversary=adversary)
    meters = run.run()
    return summarize(policy, meters, setting.prices, optimum_s(run.replayed(), setting))


def at_equal_hours(
    run: Callable[[float], Result],
    hold_s: float,
    weights: tuple[float, float],
    *,
    within: float = 0.02,
    most_runs: int = 7,
) -> tuple[Result, float]:
    """The run that holds *hold_s* worker-seconds, give or take the share *within*, and its weight.

    *run* takes a cold-start weight; more weight holds more. Searched between *weights* by
    interpolation on logarithms; the nearest one found if none is near enough.
    """
    tried: list[tuple[float, Result]] = []
    for _ in range(most_runs):
        low = max((each for each in tried if each[1].held_s < hold_s), default=None, key=_weight)
        high = min((each for each in tried if each[1].held_s >= hold_s), default=None, key=_weight)
        if low is None or high is None:
            weight = weights[0] if not tried else weights[1] if high is None else weights[0]
            if any(each[0] == weight for each in tried):
                break
        else:
            span = math.log(high[1].held_s / low[1].held_s)
            part = math.log(hold_s / low[1].held_s) / span if span else 0.5
            # Not at an end again and again: the curve bends.
            weight = low[0] * (high[0] / low[0]) ** min(0.9, max(0.1, part))
        tried.append((weight, run(weight)))
        if abs(tried[-1][1].held_s / hold_s - 1) <= within:
            break
    weight, nearest = min(tried, key=lambda each: abs(math.log(each[1].held_s / hold_s)))
    return nearest, weight


def _weight(tried: tuple[float, Result]) -> float:
    return tried[0]
