"""The plan of a gap costs no more than any other, whatever the gaps were."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_autoscaler.gaps import BINS, EDGES_S, GapHistogram
from pilotlight_autoscaler.keep_alive import break_even_s, plan_gap


def stay_cost(masses: list[float], n: int) -> float:
    """Idling through bin *n*: all who get there, half of it for those who end in it."""
    left = sum(masses[n:])
    return (EDGES_S[n + 1] - EDGES_S[n]) * (left - masses[n] / 2)


def cost_of(
    spans: list[tuple[float, float]], masses: list[float], cold_s: float, lost: float
) -> float:
    """What being there in *spans*, and nowhere else, costs, times the mass of all gaps."""
    total, there = masses[BINS] * lost, True
    for n in range(BINS):
        is_there = any(begin <= EDGES_S[n] < end for begin, end in spans)
        if is_there and not there:
            total += sum(masses[n:]) * cold_s
        total += stay_cost(masses, n) if is_there else masses[n] * lost
        there = is_there
    return total


def least_cost(masses: list[float], cold_s: float, lost: float) -> float:
    """By the plain recursion over bins and states."""
    there = gone = masses[BINS] * lost
    for n in range(BINS - 1, -1, -1):
        back = sum(masses[n + 1 :]) * cold_s + there
        there = stay_cost(masses, n) + min(there, gone)
        gone = masses[n] * lost + min(gone, back)
    return min(there, gone)


@given(
    gaps=st.lists(
        st.sampled_from([0.2, 5.0, 60.0, 61.0, 600.0, 3600.0, 1e6]) | st.floats(0, 2e5), max_size=40
    ),
    cold_s=st.floats(0.05, 100),
    weight=st.sampled_from([0.0, 1.0, 30.0, 200.0]),
    burst=st.floats(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_plan_costs_as_little_as_any(
    gaps: list[float], cold_s: float, weight: float, burst: float
) -> None:
    histogram = GapHistogram()
    for gap_s in gaps:
        histogram.add(gap_s)
    masses, lost = histogram.masses(), break_even_s(cold_s, weight, burst)

    spans = plan_gap(histogram, cold_s, weight, burst)

    planned = cost_of(spans, masses, cold_s, lost)
    assert planned == pytest.approx(least_cost(masses, cold_s, lost), rel=1e-9)


def test_plan_is_the_same_of_a_histogram_that_was_saved() -> None:
    histogram = GapHistogram()
    for gap_s in (60.0, 61.0, 600.0, 60.0):
        histogram.add(gap_s)

    again = GapHistogram.load(*histogram.dump())

    assert plan_gap(again, 8.0, 30.0, 1.0) == plan_gap(histogram, 8.0, 30.0, 1.0)
