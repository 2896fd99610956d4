"""What an idle replica's stay is worth: waiting avoided per worker-second, the best horizon taken.

Above 1 it pays for itself; under scarcity the lowest goes first. A Gittins index over the gaps.
"""

from __future__ import annotations

from pilotlight_autoscaler.gaps import BINS, EDGES_S, GapHistogram, bin_of


def residency_index(gaps: GapHistogram, age_s: float, penalty: float) -> float:
    """max over T of P * Pr(gap <= e + T | gap > e) / E[min(gap - e, T) | gap > e].

    *age_s* counts as the lower edge of its bin: within a bin the index stands still.
    """
    masses = gaps.masses()
    first = min(bin_of(age_s), BINS)
    after = sum(masses[first:])
    if first == BINS or after <= 0:
        return 0.0
    best, ended, seconds, left = 0.0, 0.0, 0.0, after
    for n in range(first, BINS):
        ended += masses[n]
        seconds += (EDGES_S[n + 1] - EDGES_S[n]) * (left - masses[n] / 2)
        left -= masses[n]
        best = max(best, ended / seconds)
    return penalty * best


def unknown_index(
    age_s: float, break_even_s: float, requests_per_s: float, penalty: float
) -> float:
    """As long as no gap was seen: 1 at the break-even age, falling with age, so the longest idle
    of equals goes first; or what the rate says, which for exponential gaps is the index exactly.
    """
    return penalty * requests_per_s if requests_per_s > 0 else break_even_s / max(age_s, 1e-3)
