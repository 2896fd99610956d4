"""What a run has cost and what its users felt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_autoscaler.simulation.meters import Meters
from pilotlight_autoscaler.simulation.setting import Prices
from pilotlight_autoscaler.simulation.trace import US_PER_S


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on one trace. Worker-seconds count each replica by the share it fills.

    ``cost_s`` is idle + loading + weight times waiting: the worker-seconds a policy can change.
    """

    policy: str
    requests: int
    cold_requests: int
    cold_rate: float
    cold_session_rate: float  # sessions begin when nothing of the model runs or waits
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    waited_s: float
    busy_s: float
    idle_s: float
    loading_s: float
    pool_s: float  # workers that existed, used or not
    cost_s: float
    machine_usd: float  # busy, idle and loading
    waiting_usd: float
    scale_actions_per_h: float
    prewarms: int
    prewarm_hit_rate: float
    decisions: int
    optimum_ratio: float | None = None  # cost to that of the clairvoyant keep-alive

    @property
    def held_s(self) -> float:
        """Worker-seconds that a policy can change."""
        return self.idle_s + self.loading_s


def summarize(
    policy: str, meters: Meters, prices: Prices, optimum_s: float | None = None
) -> Result:
    """The result of a finished run."""
    ttft = sorted(meters.ttft_us)
    waited_s, idle_s = meters.waited_us / US_PER_S, meters.idle_us / US_PER_S
    busy_s, loading_s = meters.busy_us / US_PER_S, meters.loading_us / US_PER_S
    cost_s = idle_s + loading_s + prices.cold_start_weight * waited_s
    usd_per_s = prices.worker_usd_per_hour / 3600
    hours = meters.horizon_us / US_PER_S / 3600
    return Result(
        policy=policy,
        requests=meters.arrived,
        cold_requests=meters.cold,
        cold_rate=_share(meters.cold, meters.arrived),
        cold_session_rate=_share(meters.cold_sessions, meters.sessions),
        ttft_p50_s=_percentile(ttft, 0.50),
        ttft_p95_s=_percentile(ttft, 0.95),
        ttft_p99_s=_percentile(ttft, 0.99),
        waited_s=waited_s,
        busy_s=busy_s,
        idle_s=idle_s,
        loading_s=loading_s,
        pool_s=meters.pool_us / US_PER_S,
        cost_s=cost_s,
        machine_usd=(busy_s + idle_s + loading_s) * usd_per_s,
        waiting_usd=prices.cold_start_weight * waited_s * usd_per_s,
        scale_actions_per_h=(meters.starts + meters.stops) / hours,
        prewarms=meters.prewarms,
        prewarm_hit_rate=_share(meters.prewarm_hits, meters.prewarms),
        decisions=meters.decisions,
        optimum_ratio=cost_s / optimum_s if optimum_s else None,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percentile(ordered: Sequence[int], share: float) -> float:
    """Nearest rank, in seconds."""
    if not ordered:
        return 0.0
    rank = min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))
    return ordered[rank] / US_PER_S
