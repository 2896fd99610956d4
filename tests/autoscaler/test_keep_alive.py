"""The arithmetic of idle gaps: break-even, the programme's windows, the index."""

import pytest

from pilotlight_autoscaler.burst import Burst
from pilotlight_autoscaler.gaps import BINS, EDGES_S, GapHistogram, bin_of
from pilotlight_autoscaler.keep_alive import Prewarm, break_even_s, plan_gap, to_windows
from pilotlight_autoscaler.residency import residency_index


def gaps_of(*gaps_s: float) -> GapHistogram:
    gaps = GapHistogram()
    for gap_s in gaps_s:
        gaps.add(gap_s)
    return gaps


@pytest.mark.parametrize(
    ("cold_start_s", "seconds"), [(2, 62), (5, 155), (10, 310), (20, 620), (60, 1860)]
)
def test_break_even_of_common_cold_starts(cold_start_s: float, seconds: float) -> None:
    assert break_even_s(cold_start_s, 30.0, 1.0) == seconds


def test_gaps_newest_weighs_one_and_one_of_a_hundred_gaps_ago_half() -> None:
    gaps = gaps_of(5.0, *[500.0] * 100)
    without_prior = gaps.masses()[bin_of(5.0)] - GapHistogram().masses()[bin_of(5.0)]

    assert without_prior == pytest.approx(0.5)
    assert gaps.masses()[bin_of(500.0)] < 145


def test_gaps_bins_cover_everything() -> None:
    assert (bin_of(0.0), bin_of(0.99), bin_of(1.0)) == (0, 0, 1)
    assert bin_of(3 * 86400.0) == BINS
    assert EDGES_S[BINS] == pytest.approx(2 * 86400.0)


def test_plan_short_gaps_are_bridged() -> None:
    ((begins_s, ends_s), *_) = plan_gap(gaps_of(*[4.0] * 50), 5.0, 30.0, 1.0)

    assert begins_s == 0
    assert 4 < ends_s < 60


def test_plan_long_steady_gaps_are_met_not_waited_through() -> None:
    spans = plan_gap(gaps_of(*[600.0] * 50), 5.0, 30.0, 1.0)

    assert spans[0][0] > 400
    assert any(begins_s <= 600 < ends_s for begins_s, ends_s in spans)


def test_plan_costlier_cold_starts_stay_longer() -> None:
    gaps = gaps_of(*[10.0, 100.0, 1000.0, 10000.0] * 10)
    stays_s = [plan_gap(gaps, cold_s, 30.0, 1.0)[0][1] for cold_s in (1.0, 5.0, 60.0)]

    assert stays_s == sorted(stays_s)


def test_plan_worthless_waiting_keeps_nothing() -> None:
    spans = plan_gap(gaps_of(*[600.0] * 50), 5.0, 0.0, 1.0)

    assert spans == [] or spans[0][1] <= 5.0


def test_windows_load_ahead_and_are_bounded() -> None:
    windows = to_windows([(500.0, 9000.0)], lead_s=6.0, min_s=10.0, max_s=3600.0)

    assert windows.keep_s == 10.0
    assert windows.prewarm == (Prewarm(494.0, 4094.0),)


def test_windows_that_would_load_before_it_has_left_are_a_stay() -> None:
    windows = to_windows([(0.0, 50.0), (54.0, 90.0)], lead_s=6.0, min_s=10.0, max_s=3600.0)

    assert (windows.keep_s, windows.prewarm) == (90.0, ())


def test_index_falls_when_the_usual_gap_has_passed() -> None:
    gaps = gaps_of(*[100.0] * 50)

    assert residency_index(gaps, 90.0, 150.0) > 1 > residency_index(gaps, 300.0, 150.0)


def test_index_of_the_sooner_model_is_higher() -> None:
    assert residency_index(gaps_of(*[20.0] * 9), 5.0, 1.0) > residency_index(
        gaps_of(*[2000.0] * 9), 5.0, 1.0
    )


def test_burst_counts_what_waits_together() -> None:
    burst = Burst()
    for n in range(200):
        at_s = 1000.0 * n
        burst.arrived(at_s, 1, 10.0, after_gap=True)
        burst.arrived(at_s + 5.0, 2, 10.0, after_gap=False)

    assert burst.k == pytest.approx(2.0, rel=0.01)
