"""What a policy that knew every request would pay: the yardstick of keep-alives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace


@dataclass(frozen=True, slots=True)
class Optimum:
    """Worker-seconds: idle + loading + weight times waiting, as a policy's cost is counted."""

    cost_s: float
    gaps: int
    kept: int  # gaps through which a replica stays


def waits_s(arrivals_s: Sequence[float], first: int, cold_s: float) -> float:
    """Waiting in all if the request *first* begins a cold start: whoever comes meanwhile waits."""
    ready_s, waited_s = arrivals_s[first] + cold_s, 0.0
    for at in range(first, len(arrivals_s)):
        left_s = ready_s - arrivals_s[at]
        if left_s <= 0:
            break
        waited_s += left_s
    return waited_s


def per_gap_optimum(trace: Trace, cold_start_s: Sequence[float], weight: float) -> Optimum:
    """The sum over idle gaps of min(gap, L + weight · waiting), one replica per model, no prewarm.

    Gaps are those of a platform that is always warm. Every model begins at zero.
    """
    arrivals_s: list[list[float]] = [[] for _ in trace.names]
    ends_s: list[list[float]] = [[] for _ in trace.names]
    for at_us, model, service_us in zip(
        trace.arrival_us, trace.model, trace.service_us, strict=True
    ):
        arrivals_s[model].append(at_us / US_PER_S)
        ends_s[model].append((at_us + service_us) / US_PER_S)
    cost_s, gaps, kept = 0.0, 0, 0
    for model, cold_s in enumerate(cold_start_s):
        free_at_s: float | None = None
        for at, arrival_s in enumerate(arrivals_s[model]):
            if free_at_s is None or arrival_s > free_at_s:
                start_s = cold_s + weight * waits_s(arrivals_s[model], at, cold_s)
                gap_s = start_s if free_at_s is None else arrival_s - free_at_s
                cost_s += min(gap_s, start_s)
                gaps += 1
                kept += gap_s < start_s
            free_at_s = max(free_at_s or 0.0, ends_s[model][at])
    return Optimum(cost_s, gaps, kept)
