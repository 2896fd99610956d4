"""The index for every age at once is that of its definition."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_autoscaler.gaps import BINS, EDGES_S, GapHistogram
from pilotlight_autoscaler.residency import hit_rates, residency_index


def plain_rate(masses: list[float], first: int) -> float:
    """The most gaps ended per second stayed, over all horizons, from the bin *first* on."""
    best, ended, stayed_s, left = 0.0, 0.0, 0.0, sum(masses[first:])
    for n in range(first, BINS):
        stayed_s += (EDGES_S[n + 1] - EDGES_S[n]) * (left - masses[n] / 2)
        ended += masses[n]
        left -= masses[n]
        best = max(best, ended / stayed_s)
    return best


@given(
    gaps=st.lists(
        st.sampled_from([0.2, 5.0, 60.0, 61.0, 600.0, 3600.0, 1e6]) | st.floats(0, 2e5), max_size=40
    )
)
@settings(max_examples=100, deadline=None)
def test_hit_rates_are_the_best_over_all_horizons(gaps: list[float]) -> None:
    histogram = GapHistogram()
    for gap_s in gaps:
        histogram.add(gap_s)
    masses = histogram.masses()

    rates = hit_rates(histogram)

    assert rates == pytest.approx([plain_rate(masses, n) for n in range(BINS + 1)], rel=1e-9)


def test_index_is_nothing_beyond_the_horizon() -> None:
    assert residency_index(GapHistogram(), 3 * 86400.0, 100.0) == 0.0
