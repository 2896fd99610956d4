"""Where forecasts lose to somebody who knows them: the break-even, which nobody can beat twice.

Windows that follow from the gaps seen pay off on any traffic that is indifferent to them. Requests
that come just after a replica has gone are not: each costs what it stayed and a cold start. So the
realised cost of each gap is compared with what the fallback would have cost on it; once the sum
of what was lost exceeds half a cold start, the fallback is followed until that is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_autoscaler.gaps import HALF_LIFE_GAPS
from pilotlight_autoscaler.keep_alive import Windows, break_even_s

_KEPT: float = 2 ** (-1 / HALF_LIFE_GAPS)  # of the account, from gap to gap
_ENTER, _LEAVE = 0.5, 0.25  # cold starts lost
_MOST, _LEAST = 2.0, -0.5  # what was gained long ago must not pay for what is lost now


@dataclass(slots=True)
class Guard:
    """One model's account, in units of the cost of one cold start, L (1 + w k)."""

    lost: float = 0.0
    active: bool = False

    def closed(
        self, windows: Windows, gap_s: float, cold_start_s: float, weight: float, burst: float
    ) -> None:
        """A gap has ended during which *windows* were followed."""
        unit_s = break_even_s(cold_start_s, weight, burst)
        self.lost *= _KEPT
        if not self.active and unit_s > 0:
            keep_s = fallback_s(cold_start_s, weight, burst)
            instead_s = gap_s if gap_s <= keep_s else keep_s + unit_s
            paid_s = gap_cost_s(windows, gap_s, cold_start_s, weight, burst)
            self.lost = max(_LEAST, min(self.lost + (paid_s - instead_s) / unit_s, _MOST))
        self.active = self.lost > (_LEAVE if self.active else _ENTER)


def fallback_s(cold_start_s: float, weight: float, burst: float) -> float:
    """w k L: less than twice the clairvoyant's cost on every gap.

    A gap that outlasts it lasts the load as well: L (1 + w k) in all, for which even the
    clairvoyant pays a cold start.
    """
    return weight * burst * cold_start_s


def gap_cost_s(
    windows: Windows, gap_s: float, cold_start_s: float, weight: float, burst: float
) -> float:
    """Worker-seconds: idle, loading, and weight times the waiting at the gap's end."""
    if gap_s <= windows.keep_s:
        return gap_s
    paid_s = windows.keep_s
    for each in windows.prewarm:
        if gap_s < each.load_age_s:
            break
        if gap_s <= each.drop_age_s:
            loads_s = max(0.0, each.load_age_s + cold_start_s - gap_s)
            return paid_s + (gap_s - each.load_age_s) + loads_s * (1 + weight * burst)
        paid_s += each.drop_age_s - each.load_age_s
    return paid_s + break_even_s(cold_start_s, weight, burst)
