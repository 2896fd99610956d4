"""How long to keep an idle replica so that few pauses are longer."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_autoscaler.gaps import BINS, EDGES_S, HORIZON_S, GapHistogram

ENOUGH_GAPS = 8
COLD_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class KeepFor:
    """Staying *keep_s*: how many pauses outlast it, and how much of the idle time it is there."""

    keep_s: float
    cold_share: float
    resident_share: float
    gaps: int  # seen


def keep_for(gaps: GapHistogram, cold_share: float = COLD_SHARE) -> KeepFor | None:
    """The least that leaves at most *cold_share* of the pauses cold.

    None with fewer than 8 seen, or where more than that last over two days.
    """
    counts = sorted(gaps.counts.items())
    total = sum(count for _, count in counts)
    if gaps.observed < ENOUGH_GAPS or total <= 0:
        return None
    left = total
    for number, count in counts:
        left -= count
        if left <= cold_share * total and number < BINS:
            keep_s = EDGES_S[number + 1]
            idle_s, there_s = _times_s(counts, keep_s)
            return KeepFor(keep_s, max(0.0, left) / total, there_s / idle_s, gaps.observed)
    return None


def _times_s(counts: list[tuple[int, float]], keep_s: float) -> tuple[float, float]:
    """Idle time in all, and that within *keep_s* of a pause; pauses by the middle of their bin."""
    idle_s = there_s = 0.0
    for number, count in counts:
        gap_s = (EDGES_S[number] + EDGES_S[number + 1]) / 2 if number < BINS else HORIZON_S
        idle_s += count * gap_s
        there_s += count * min(gap_s, keep_s)
    return idle_s, there_s
