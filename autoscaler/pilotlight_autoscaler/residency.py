"""What an idle replica's stay is worth: waiting avoided per worker-second, the best horizon taken.

Above 1 it pays for itself; under scarcity the lowest goes first. A Gittins index over the gaps.
"""

from __future__ import annotations

from itertools import accumulate

from pilotlight_autoscaler.gaps import BINS, WIDTHS_S, GapHistogram, bin_of


def residency_index(gaps: GapHistogram, age_s: float, penalty: float) -> float:
    """max over T of P * Pr(gap <= e + T | gap > e) / E[min(gap - e, T) | gap > e].

    *age_s* counts as the lower edge of its bin: within a bin the index stands still.
    """
    return penalty * hit_rates(gaps)[bin_of(age_s)]


def hit_rates(gaps: GapHistogram) -> list[float]:
    """By bin of the age: gaps that end per second of staying, over the best horizon.

    Gaps that ended and seconds stayed, summed up from the first bin on, are points of a curve. The
    index is the steepest slope from the age's point to a later one, which touches the hull above
    them: it is drawn from the right, one point at a time, for all ages in one pass.
    """
    masses = gaps.masses()
    ended = [0.0, *accumulate(masses[:BINS])]
    left = sum(masses)
    stayed = [0.0]
    for width_s, mass in zip(WIDTHS_S, masses, strict=False):
        stayed.append(stayed[-1] + width_s * (left - mass / 2))
        left -= mass
    rates = [0.0] * (BINS + 1)  # beyond two days nothing is known to come
    hull = [BINS]
    for n in range(BINS - 1, -1, -1):
        x, y = stayed[n], ended[n]
        at = hull[-1]
        best = (ended[at] - y) / (stayed[at] - x)
        while len(hull) > 1:
            at = hull[-2]
            rate = (ended[at] - y) / (stayed[at] - x)
            if rate < best:
                break
            best = rate
            hull.pop()
        rates[n] = best
        hull.append(n)
    return rates


def unknown_index(
    age_s: float, break_even_s: float, requests_per_s: float, penalty: float
) -> float:
    """As long as no gap was seen: 1 at the break-even age, falling with age, so the longest idle
    of equals goes first; or what the rate says, which for exponential gaps is the index exactly.
    """
    return penalty * requests_per_s if requests_per_s > 0 else break_even_s / max(age_s, 1e-3)
