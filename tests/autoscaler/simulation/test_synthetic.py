"""The generator's traffic has the published shape, and is the same for the same seed."""

import itertools

import pytest

from pilotlight_autoscaler.simulation.published import (
    AZURE_DAILY_REQUESTS,
    AZURE_INTERARRIVAL_CV,
    Distribution,
)
from pilotlight_autoscaler.simulation.synthetic import (
    Traffic,
    azure_trace,
    daily_requests,
    interarrival_cvs,
)
from pilotlight_autoscaler.simulation.trace import Trace

# Hot models are cut, so that the test takes seconds: the table is compared below the cut.
_CUT = 1500.0


@pytest.fixture(scope="module")
def fortnight() -> Trace:
    """As long as the published study."""
    return azure_trace(Traffic(models=200, days=14, seed=7, max_daily_requests=_CUT))


def test_azure_trace_has_the_published_daily_rates(fortnight: Trace) -> None:
    below = tuple(point for point in AZURE_DAILY_REQUESTS.points if point[0] < _CUT)

    assert Distribution(below, log=True).distance(daily_requests(fortnight)) <= 0.03


def test_azure_trace_has_the_published_variation_of_gaps(fortnight: Trace) -> None:
    assert AZURE_INTERARRIVAL_CV.distance(interarrival_cvs(fortnight)) <= 0.03


def test_distance_sees_another_distribution() -> None:
    poisson_only = [1.0] * 100

    assert AZURE_INTERARRIVAL_CV.distance(poisson_only) > 0.3


def test_azure_trace_is_the_same_for_a_seed_and_another_for_another() -> None:
    first = azure_trace(Traffic(models=20, days=1, seed=3, max_daily_requests=500))
    again = azure_trace(Traffic(models=20, days=1, seed=3, max_daily_requests=500))
    other = azure_trace(Traffic(models=20, days=1, seed=4, max_daily_requests=500))

    assert first.digest() == again.digest()
    assert first.digest() != other.digest()


def test_azure_trace_is_in_order_and_inside_its_horizon(fortnight: Trace) -> None:
    arrivals = fortnight.arrival_us

    assert all(before <= after for before, after in itertools.pairwise(arrivals))
    assert arrivals[0] >= 0
    assert arrivals[-1] <= fortnight.horizon_us
