"""How long an idle replica stays, and when the next one starts ahead of its request.

All costs are worker-seconds. A cold start takes L of them and makes its requests wait, which
counts as P = w * L * k more: so much is what losing a replica too early costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pilotlight_autoscaler.gaps import BINS, EDGES_S, WIDTHS_S, GapHistogram

_LEAD_FACTOR, _LEAD_S = 1.1, 0.5  # a forecast replica is ready a little early

_HALF_WIDTHS_S = tuple(width_s / 2 for width_s in WIDTHS_S)

_Plan = tuple[int, Any]  # the edge at which the state changes, and the plan from there on


@dataclass(frozen=True, slots=True)
class Prewarm:
    """Start at *load_age_s* of a gap so as to be ready for what comes until *drop_age_s*."""

    load_age_s: float
    drop_age_s: float


@dataclass(frozen=True, slots=True)
class Windows:
    """Ages of an idle gap: stay until *keep_s*, then be there again in each prewarm window.

    *recall* are the windows of a model that had to go before: others needed its room.
    """

    keep_s: float
    prewarm: tuple[Prewarm, ...] = ()
    recall: tuple[Prewarm, ...] = ()


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
    lost_s = break_even_s(cold_start_s, weight, burst)
    # Costs times the mass that gets so far: a step needs no division.
    first, surviving = _tail(masses, gaps.above, lost_s)
    gone = there = surviving * lost_s
    there_next: _Plan | None = None  # from here on: when the state changes, and what follows then
    gone_next: _Plan | None = None
    if first < BINS:
        mass = masses[first]
        there += (surviving + surviving - mass) * _HALF_WIDTHS_S[first] - mass * lost_s
        there_next = (first + 1, None)
    backward = slice(first - 1, None, -1)
    for edge, mass, half_width_s in zip(
        range(first, 0, -1), masses[backward], _HALF_WIDTHS_S[backward], strict=False
    ):
        stay = (surviving + surviving + mass) * half_width_s
        if gone < there:  # nobody loads what is better gone
            there, there_next = stay + gone, (edge, gone_next)
            gone += mass * lost_s
        else:
            reload = surviving * cold_start_s + there
            there += stay
            if reload < gone:
                gone, gone_next = mass * lost_s + reload, (edge, there_next)
            else:
                gone += mass * lost_s
        surviving += mass
    return _spans(there_next, there=True) if there <= gone else _spans(gone_next, there=False)


def _tail(masses: list[float], above: int, lost_s: float) -> tuple[int, float]:
    """From which bin on nobody stays or comes back, and the mass that gets so far.

    Where all bins from *above* on have the prior's mass m, their widths w grow faster than the mass
    S that gets there falls: once staying through one costs more than it saves, w (S - m / 2) above
    m times what is lost, so it is in all later ones. Being gone costs S times what is lost.
    """
    beyond, first = masses[BINS], max(1, above)  # the first one is wider than the second
    while first < BINS:
        mass = masses[first]
        surviving = beyond + (BINS - first) * mass
        if (surviving + surviving - mass) * _HALF_WIDTHS_S[first] > mass * lost_s:
            return first, surviving
        first += 1
    return BINS, beyond


def _spans(plan: _Plan | None, *, there: bool) -> list[tuple[float, float]]:
    """The ages that a plan spends in the state "there"."""
    spans: list[tuple[float, float]] = []
    since_s = 0.0
    while plan is not None:
        edge, plan = plan
        if there:
            spans.append((since_s, EDGES_S[edge]))
        since_s, there = EDGES_S[edge], not there
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
    recall: list[Prewarm] = []
    for ready_s, drop_s in spans:
        load_s = ready_s - lead_s
        if load_s > 0:  # there is time to be gone and back
            recall.append(Prewarm(load_s, min(drop_s, load_s + max_s)))
        if not later and load_s <= keep_s:
            keep_s = max(keep_s, min(drop_s, max_s))
        elif later and load_s <= later[-1].drop_age_s:
            began = later[-1].load_age_s
            later[-1] = Prewarm(began, max(later[-1].drop_age_s, min(drop_s, began + max_s)))
        else:
            later.append(recall[-1])
    return Windows(keep_s, tuple(later), tuple(recall))


def lead_s(slow_cold_start_s: float) -> float:
    """How long before its time a forecast replica begins to load."""
    return slow_cold_start_s * _LEAD_FACTOR + _LEAD_S
