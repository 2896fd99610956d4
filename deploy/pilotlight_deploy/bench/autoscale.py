"""`pilotlight bench autoscale`: the policy beside others and the optimum, simulated.

Policies are tuned on the seeds of TUNING_SEEDS and judged on those of REPORTING_SEEDS: traffic that
nobody has looked at while choosing a constant.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.comparing import (
    at_equal_hours,
    optimum_s,
    simulate,
    simulate_regime,
)
from pilotlight_autoscaler.simulation.fleet import cold_starts_s, make_setting
from pilotlight_autoscaler.simulation.pool_optimum import pool_optimum
from pilotlight_autoscaler.simulation.regimes import adversarial_suite
from pilotlight_autoscaler.simulation.result import Result
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace
from pilotlight_autoscaler.simulation.trace import Trace
from pilotlight_deploy.bench.decide import measure_decide
from pilotlight_deploy.bench.report import BenchReport, Figure, figure, make_report
from pilotlight_deploy.simulating import synthetic_trace

TUNING_SEEDS = tuple(range(1, 21))
REPORTING_SEEDS = (301, 302, 303, 304, 305)
_OURS = "pilotlight"
# A hot model is warm under every policy and only makes the ratios better: cut, so that the bench
# ends within minutes. The published shape holds below.
_MAX_DAILY = 1000.0
_MODELS, _DAYS = 60, 7.0
_EQUAL_HOURS_DAYS, _WEIGHTS = 3.0, (100.0, 400.0)
_POOL_DAYS, _POOL_MODELS, _POOL_WORKERS = 2.0, 83, 25
_SPEED_MODELS, _SPEED_DAYS, _SPEED_RUNS = 100, 1.0, 5

OnProgress = Callable[[str, float], None]
Case = dict[str, Any]


def run(on_progress: OnProgress) -> BenchReport:
    """Everything, in about seven minutes on one core."""
    bench = _Bench(on_progress)
    figures = [
        *bench.cost_ratios(),
        bench.adversarial(),
        bench.equal_hours(),
        *bench.scarce_pool(),
        *bench.decide(),
        *bench.speed(),
    ]
    seeds: Case = {
        "case": "seeds",
        "tuning": list(TUNING_SEEDS),
        "reporting": list(REPORTING_SEEDS),
        "max_daily_requests": _MAX_DAILY,
    }
    return make_report(
        "autoscale", figures, [seeds, *bench.cases], arguments=["bench", "autoscale"]
    )


class _Bench:
    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self.cases: list[Case] = []

    def cost_ratios(self) -> list[Figure]:
        """Room for all: how near the policy comes to knowing every request."""
        ratios = []
        for seed in REPORTING_SEEDS:
            trace = _trace(_MODELS, _DAYS, seed)
            result = self._run(trace, seed, _OURS, _config())
            assert result.optimum_ratio is not None
            ratios.append(result.optimum_ratio)
        mean = sum(ratios) / len(ratios)
        return [
            figure("autoscale.cost_ratio_mean", [mean], "x", goal=1.05),
            figure("autoscale.cost_ratio_worst", [max(ratios)], "x", goal=1.15),
        ]

    def adversarial(self) -> Figure:
        worst = 0.0
        for seed in REPORTING_SEEDS:
            suite = adversarial_suite(seed)
            for number, regime in enumerate(suite):
                self._on_progress(f"adversary {regime.name}, seed {seed}", number / len(suite))
                result = simulate_regime(regime, _OURS, _config(), seed)
                assert result.optimum_ratio is not None
                worst = max(worst, result.optimum_ratio)
                self._note("adversarial", result, regime=regime.name, seed=seed)
        return figure("autoscale.adversarial_worst", [worst], "x", goal=2.0)

    def equal_hours(self) -> Figure:
        """Cold requests beside a fixed keep-alive of ten minutes that holds as many hours."""
        ratios = []
        for seed in REPORTING_SEEDS:
            trace = _trace(_MODELS, _EQUAL_HOURS_DAYS, seed)
            fixed = self._run(trace, seed, "fixed600", _config())

            def ours(weight: float, trace: Trace = trace, seed: int = seed) -> Result:
                return self._run(trace, seed, _OURS, _config(weight, _LONGEST_S), weight=weight)

            found, weight = at_equal_hours(ours, fixed.held_s, _WEIGHTS)
            ratios.append(found.cold_requests / fixed.cold_requests)
            hours = found.held_s / fixed.held_s
            about = {"seed": seed, "weight": weight, "hours_ratio": hours, "ratio": ratios[-1]}
            self.cases.append({"case": "equal_hours", **about})
        return figure("autoscale.cold_vs_fixed600", ratios, "x", goal=0.4)

    def scarce_pool(self) -> list[Figure]:
        """Three models in ten have room, and the room is paid for: who is there when matters."""
        to_lru, to_gdsf = [], []
        for seed in REPORTING_SEEDS:
            trace = _trace(_POOL_MODELS, _POOL_DAYS, seed)
            pool = Pool(nodes=_POOL_WORKERS)
            waited_s = {
                policy: self._run(trace, seed, policy, _POOL_CONFIG, pool=pool).waited_s
                for policy in (_OURS, "lru", "gdsf")
            }
            to_lru.append(waited_s[_OURS] / waited_s["lru"])
            to_gdsf.append(waited_s[_OURS] / waited_s["gdsf"])
            self._on_progress(f"the bound without forecasts, seed {seed}", 0.0)
            bound = pool_optimum(trace, cold_starts_s(trace.names, seed), _POOL_WORKERS)
            self.cases.append({"case": "pool_bound", "seed": seed, **asdict(bound)})
        return [
            figure("autoscale.wait_vs_lru", to_lru, "x", goal=0.4),
            figure("autoscale.wait_vs_gdsf", to_gdsf, "x", goal=0.85),
        ]

    def decide(self) -> list[Figure]:
        self._on_progress("decide() with 1,000 models on 100 workers", 0.0)
        cost = measure_decide()
        self.cases.append({"case": "decide", **asdict(cost)})
        return [
            figure("autoscale.decide_incremental_ms", [cost.incremental_ms], "ms", goal=1.0),
            figure("autoscale.decide_full_ms", [cost.full_ms], "ms", goal=50.0),
        ]

    def speed(self) -> list[Figure]:
        """On what `pilotlight simulate` draws by default, and on the trace of the other figures."""
        seed = REPORTING_SEEDS[0]
        drawn = synthetic_trace("azure", _SPEED_MODELS, _SPEED_DAYS, seed)
        cut = _trace(_SPEED_MODELS, _SPEED_DAYS, seed)
        name = "autoscale.sim_requests_per_s"
        return [
            figure(name, self._speeds(drawn, seed), "1/s", better="higher", goal=20_000.0),
            figure(f"{name}_cut", self._speeds(cut, seed), "1/s", better="higher"),
        ]

    def _speeds(self, trace: Trace, seed: int) -> list[float]:
        speeds = []
        for _ in range(_SPEED_RUNS):
            began_s = time.perf_counter()
            self._run(trace, seed, _OURS, _config())
            speeds.append(len(trace) / (time.perf_counter() - began_s))
        return speeds

    def _run(
        self,
        trace: Trace,
        seed: int,
        policy: str,
        config: AutoscalingConfig,
        *,
        pool: Pool | None = None,
        **about: Any,
    ) -> Result:
        label = f"{policy}, {len(trace.names)} models, seed {seed}"
        starts_s = cold_starts_s(trace.names, seed)
        setting = make_setting(trace, starts_s, config=config, pool=pool, seed=seed)
        result = simulate(
            trace,
            setting,
            policy,
            optimum_s=optimum_s(trace, setting) if pool is None else None,
            on_progress=lambda part: self._on_progress(label, part),
        )
        self._note("pool" if pool else "roomy", result, seed=seed, sha256=trace.digest(), **about)
        return result

    def _note(self, case: str, result: Result, **about: Any) -> None:
        self.cases.append({"case": case, **about, **asdict(result)})


def _trace(models: int, days: float, seed: int) -> Trace:
    return azure_trace(Traffic(models, days, seed, max_daily_requests=_MAX_DAILY))


_FOREVER_S = 30 * 86_400.0
_REPLICA = {"max_ongoing_requests": 1000, "max_queued_requests": 1_000_000}
# As LRU and GreedyDual do, nothing leaves a worker that nobody else wants.
_POOL_CONFIG = AutoscalingConfig.model_validate(
    {**_REPLICA, "keep_alive": {"min_s": _FOREVER_S, "max_s": _FOREVER_S}}
)


# So that the weight alone says how many hours are held.
_LONGEST_S = 2 * 86_400.0


def _config(weight: float = 30.0, max_s: float = 3600.0) -> AutoscalingConfig:
    """One replica per model, as the optimum assumes; requests never wait for a slot."""
    keep_alive = {"cold_start_weight": weight, "max_s": max_s}
    return AutoscalingConfig.model_validate({**_REPLICA, "keep_alive": keep_alive})
