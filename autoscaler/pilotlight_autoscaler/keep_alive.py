"""How long an idle replica stays, and when the next one starts ahead of its request.

All costs are worker-seconds. A cold start takes L of them and makes its requests wait, which
counts as P = w * L * k more: so much is what losing a replica too early costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_autoscaler.gaps import BINS, EDGES_S, GapHistogram

_LEAD_FACTOR, _LEAD_S = 1.1, 0.5  # a forecast replica is ready a little early

_BACKWARD = tuple(range(BINS - 1, -1, -1))
_WIDTHS_BACKWARD_S = tuple(EDGES_S[n + 1] - EDGES_S[n] for n in _BACKWARD)


@dataclass(frozen=True, slots=True)
class Prewarm:
    """Start at *load_age_s* of a gap so as to be ready for what comes until *drop_age_s*."""

    load_age_s: float
    drop_age_s: float


@dataclass(frozen=True, slots=True)
class Windows:
    """Ages of an idle gap: stay until *keep_s*, then be there again in each prewarm window."""

    keep_s: float
    prewarm: tuple[Prewarm, ...] = ()
    why: str = ""  # the arithmetic, for people


def break_even_s(cold_start_s: float, weight: float, burst: float) -> float:
    """L (1 + w k): idling longer than this costs more than the cold start that it saves.

    Keeping a replica exactly so long costs at most twice what a clairvoyant would pay.
    """
    return cold_start_s * (1 + weight * burst)


def plan_gap(
    gaps: GapHistogram, cold_start_s: float, weight: float, burst: float
) -> list[tuple[float, float]]:
    """Spans of ages at which a replica should be there, cheapest in expectation.

    The first begins at 0 if the replica should stay at all. Two states (there, not there), one
    backward pass over the bins; moving from "not there" to "there" costs a load.
    """
    masses = gaps.masses()
    lost = break_even_s(cold_start_s, weight, burst)
    there_next = gone_next = lost
    surviving = masses[BINS]
    leaves = [False] * (BINS + 1)  # at the upper edge of bin n - 1: let it go
    loads = [False] * (BINS + 1)  # at the same edge: fetch it again
    for n, mass, width_s in zip(_BACKWARD, masses[BINS - 1 :: -1], _WIDTHS_BACKWARD_S, strict=True):
        surviving += mass
        hazard = mass / surviving
        stays = 1 - hazard
        there = width_s * (1 - hazard / 2)
        reload = cold_start_s + there_next
        if gone_next < there_next:
            leaves[n + 1] = True
            there += stays * gone_next
        else:
            there += stays * there_next
        if reload < gone_next:
            loads[n + 1] = True
            gone_next = hazard * lost + stays * reload
        else:
            gone_next = hazard * lost + stays * gone_next
        there_next = there
    return _read(leaves, loads, there=there_next <= gone_next)


def _read(leaves: list[bool], loads: list[bool], *, there: bool) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    since_s = 0.0
    for n in range(1, BINS + 1):
        if there and leaves[n]:
            spans.append((since_s, EDGES_S[n]))
            there = False
        elif not there and loads[n]:
            since_s, there = EDGES_S[n], True
    if there:
        spans.append((since_s, EDGES_S[BINS]))
    return spans


def to_windows(
    spans: list[tuple[float, float]], *, lead_s: float, min_s: float, max_s: float
) -> Windows:
    """Spans as orders: loading begins *lead_s* ahead, and no replica idles longer than *max_s*.

    A span whose load would begin before the replica has left is no prewarming: it stays.
    """
    keep_s = min_s
    later: list[Prewarm] = []
    for ready_s, drop_s in spans:
        load_s = ready_s - lead_s
        if not later and load_s <= keep_s:
            keep_s = max(keep_s, min(drop_s, max_s))
        elif later and load_s <= later[-1].drop_age_s:
            began = later[-1].load_age_s
            later[-1] = Prewarm(began, max(later[-1].drop_age_s, min(drop_s, began + max_s)))
        else:
            later.append(Prewarm(load_s, min(drop_s, load_s + max_s)))
    return Windows(keep_s, tuple(later))


def lead_s(slow_cold_start_s: float) -> float:
    """How long before its time a forecast replica begins to load."""
    return slow_cold_start_s * _LEAD_FACTOR + _LEAD_S
