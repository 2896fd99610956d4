"""One policy on one trace, and policies compared at equal worker-hours. Values in, values out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def cold_at_equal_hours(
    run: Callable[[float], Result], hold_s: float, weights: Sequence[float]
) -> tuple[float, float]:
    """Cold requests of a policy tuned to hold *hold_s* worker-seconds, and the weight for that.

    *run* takes a cold-start weight. Both are interpolated on logarithms between the two of the
    ascending *weights* that enclose; at an end, that end's.
    """
    low = (weights[0], run(weights[0]))
    if low[1].held_s >= hold_s:
        return float(low[1].cold_requests), low[0]
    for weight in weights[1:]:
        high = (weight, run(weight))
        if high[1].held_s >= hold_s:
            span = math.log(high[1].held_s / low[1].held_s)
            part = math.log(hold_s / low[1].held_s) / span if span else 1.0
            return (
                _between(low[1].cold_requests, high[1].cold_requests, part),
                _between(low[0], high[0], part),
            )
        low = high
    return float(low[1].cold_requests), low[0]


def _between(low: float, high: float, part: float) -> float:
    return math.exp((1 - part) * math.log(max(low, 1e-9)) + part * math.log(max(high, 1e-9)))
