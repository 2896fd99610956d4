"""What no policy without forecasts can wait less than, in a pool that has not room for all.

An idle gap in which the model keeps its slot saves the waiting of a cold start; at any time no
more gaps can be kept than slots are not busy. Which gaps to keep is then weighted interval
scheduling on as many machines as there are slots: a flow of that many units through time, past all
models (free) or along a gap (which saves). Solved exactly, by a shortest augmenting path per slot.

It is a bound, not a plan: loads take no slot here and no time but the waiting, and of requests that
come within a cold start of each other only the first gap counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from pilotlight_autoscaler.simulation.optimum import waits_s
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace

_BUSY_TIMES = 10.0  # a busy slot saves so many times what the best gap does: it is taken first

_Gap = tuple[float, float, float]  # from, until, what a slot saves that holds the model meanwhile


@dataclass(frozen=True, slots=True)
class PoolOptimum:
    """Request-seconds of waiting: at least, of first requests among it, if nothing is kept."""

    waited_s: float
    first_s: float
    nothing_kept_s: float


def pool_optimum(trace: Trace, cold_start_s: Sequence[float], slots: int) -> PoolOptimum:
    """For models that take one slot each and have one replica."""
    gaps: list[_Gap] = []
    busy: list[tuple[float, float]] = []
    first_s = all_s = 0.0
    arrivals_s, ends_s = _by_model(trace)
    for model, cold_s in enumerate(cold_start_s):
        arrivals, busy_since_s, free_s, cold_until_s = arrivals_s[model], 0.0, -inf, -inf
        for at, arrival_s in enumerate(arrivals):
            if arrival_s > free_s:
                saved_s = waits_s(arrivals, at, cold_s) if arrival_s >= cold_until_s else 0.0
                if saved_s:
                    cold_until_s = arrival_s + cold_s
                    all_s += saved_s
                if free_s == -inf:
                    first_s += saved_s
                else:
                    busy.append((busy_since_s, free_s))
                    if saved_s:
                        gaps.append((free_s, arrival_s, saved_s))
                busy_since_s = arrival_s
            free_s = max(free_s, ends_s[model][at])
        if arrivals:
            busy.append((busy_since_s, free_s))
    return PoolOptimum(all_s - most_saved(gaps, busy, slots), first_s, all_s)


def _by_model(trace: Trace) -> tuple[list[list[float]], list[list[float]]]:
    arrivals_s: list[list[float]] = [[] for _ in trace.names]
    ends_s: list[list[float]] = [[] for _ in trace.names]
    for at_us, model, service_us in zip(
        trace.arrival_us, trace.model, trace.service_us, strict=True
    ):
        arrivals_s[model].append(at_us / US_PER_S)
        ends_s[model].append((at_us + service_us) / US_PER_S)
    return arrivals_s, ends_s


def most_saved(gaps: list[_Gap], busy: list[tuple[float, float]], slots: int) -> float:
    """What *gaps* can save at most in *slots* that hold one of them at a time, or are *busy*."""
    most = _BUSY_TIMES * max((saved for _, _, saved in gaps), default=1.0)
    spans = [*gaps, *((begin, end, most) for begin, end in busy)]
    times = sorted({each for begin, end, _ in spans for each in (begin, end)})
    number = {at: n for n, at in enumerate(times)}
    begins: list[list[int]] = [[] for _ in times]
    ends: list[list[int]] = [[] for _ in times]
    arcs = [(number[begin], number[end], saved) for begin, end, saved in spans]
    for n, (begin, end, _) in enumerate(arcs):
        begins[begin].append(n)
        ends[end].append(n)
    taken = [False] * len(arcs)
    passing = [0] * len(times)  # units that go from one time to the next along no span
    height = _longest(begins, ends, arcs, len(times))
    for _ in range(slots):
        if not _augment(begins, ends, arcs, taken, passing, height):
            break
    return sum(saved for (_, _, saved), kept in zip(gaps, taken, strict=False) if kept)


def _longest(
    begins: list[list[int]], ends: list[list[int]], arcs: list[tuple[int, int, float]], count: int
) -> list[float]:
    """Potentials to begin with: minus the most that can be saved up to each time."""
    height = [0.0] * count
    for n in range(1, count):
        best = height[n - 1]
        for arc in ends[n]:
            begin, _, saved = arcs[arc]
            best = min(best, height[begin] - saved)
        height[n] = best
    return height


def _augment(
    begins: list[list[int]],
    ends: list[list[int]],
    arcs: list[tuple[int, int, float]],
    taken: list[bool],
    passing: list[int],
    height: list[float],
) -> bool:
    """Send one more unit from the first time to the last, where it saves most (Dijkstra)."""
    last = len(height) - 1
    cost = [inf] * (last + 1)
    came: list[tuple[int, int]] = [(-1, -1)] * (last + 1)  # from which time, along which span
    done = [False] * (last + 1)
    cost[0] = 0.0
    heap = [(0.0, 0)]
    while heap:
        so_far, at = heappop(heap)
        if done[at]:
            continue
        done[at] = True
        base = so_far + height[at]
        if at < last and base - height[at + 1] < cost[at + 1] and not done[at + 1]:
            cost[at + 1] = max(so_far, base - height[at + 1])
            came[at + 1] = (at, -1)
            heappush(heap, (cost[at + 1], at + 1))
        if at and passing[at - 1] and not done[at - 1] and base - height[at - 1] < cost[at - 1]:
            cost[at - 1] = max(so_far, base - height[at - 1])
            came[at - 1] = (at, -1)
            heappush(heap, (cost[at - 1], at - 1))
        for arc in begins[at]:
            _, end, saved = arcs[arc]
            there = base - saved - height[end]
            if not taken[arc] and not done[end] and there < cost[end]:
                cost[end], came[end] = max(so_far, there), (at, arc)
                heappush(heap, (cost[end], end))
        for arc in ends[at]:
            begin, _, saved = arcs[arc]
            there = base + saved - height[begin]
            if taken[arc] and not done[begin] and there < cost[begin]:
                cost[begin], came[begin] = max(so_far, there), (at, arc)
                heappush(heap, (cost[begin], begin))
    if cost[last] + height[last] - height[0] >= 0 or not done[last]:
        return False
    for at, each in enumerate(cost):
        height[at] += each
    at = last
    while at:
        before, arc = came[at]
        if arc >= 0:
            taken[arc] = before < at
        elif before < at:
            passing[before] += 1
        else:
            passing[at] -= 1
        at = before
    return True
