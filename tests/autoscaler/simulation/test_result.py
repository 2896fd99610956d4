"""Results: rates, percentiles and money from the accounts."""

from array import array

import pytest

from pilotlight_autoscaler.simulation.comparing import at_equal_hours
from pilotlight_autoscaler.simulation.meters import Meters
from pilotlight_autoscaler.simulation.result import Result, summarize
from pilotlight_autoscaler.simulation.setting import Prices

S = 1_000_000


def result(**accounts: float) -> Result:
    meters = Meters(horizon_us=7200 * S)
    for name, value in accounts.items():
        setattr(meters, name, value)
    return summarize("p", meters, Prices(cold_start_weight=10, worker_usd_per_hour=36), 100.0)


def test_summarize_prices_machines_and_waiting() -> None:
    found = result(busy_us=100 * S, idle_us=50 * S, loading_us=10 * S, waited_us=4 * S)

    assert found.cost_s == 50 + 10 + 10 * 4
    assert found.optimum_ratio == 1.0
    assert found.machine_usd == pytest.approx(1.60)  # a cent a second
    assert found.waiting_usd == pytest.approx(0.40)


def test_summarize_takes_nearest_ranks() -> None:
    found = result(ttft_us=array("q", (at * S for at in range(100, 0, -1))))

    assert (found.ttft_p50_s, found.ttft_p95_s, found.ttft_p99_s) == (50.0, 95.0, 99.0)


def test_summarize_counts_sessions_and_actions() -> None:
    found = result(arrived=10, cold=5, sessions=4, cold_sessions=1, starts=3, stops=1)

    assert (found.cold_rate, found.cold_session_rate) == (0.5, 0.25)
    assert found.scale_actions_per_h == 2.0


def test_at_equal_hours_finds_the_weight_within_two_percent() -> None:
    def run(weight: float) -> Result:
        return result(idle_us=round(10 * weight**0.5 * S), cold=round(1000 / weight))

    found, weight = at_equal_hours(run, 200.0, (100.0, 800.0))

    assert found.held_s == pytest.approx(200.0, rel=0.02)
    assert weight == pytest.approx(400.0, rel=0.04)
    assert found.cold_requests == round(1000 / weight)


def test_at_equal_hours_gives_the_nearest_where_the_weights_do_not_reach() -> None:
    def run(weight: float) -> Result:
        return result(idle_us=round(weight * S))

    assert at_equal_hours(run, 200.0, (10.0, 40.0))[1] == 40.0
