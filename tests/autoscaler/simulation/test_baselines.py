"""What each baseline does that tells it from the others."""

import math

import pytest
from support.simulated import make_setting, make_trace

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.baselines.keep_alive import Baseline
from pilotlight_autoscaler.simulation.baselines.knative import Knative
from pilotlight_autoscaler.simulation.baselines.ray_serve import RAY_DEFAULTS, RayServe
from pilotlight_autoscaler.simulation.baselines.rules import (
    Clairvoyant,
    Fixed,
    GreedyDual,
    HybridHistogram,
    SkiRental,
)
from pilotlight_autoscaler.simulation.engine import Simulation
from pilotlight_autoscaler.simulation.optimum import per_gap_optimum
from pilotlight_autoscaler.simulation.setting import Pool

S = 1_000_000


def test_ski_rental_keeps_for_the_cost_of_a_cold_start() -> None:
    trace = make_trace([(10.0, "a")], horizon_s=1000)

    meters = Simulation(trace, make_setting(trace), Baseline(SkiRental(30.0))).run()

    assert meters.idle_us == 4 * 31 * S


def test_knative_leaves_after_its_window_and_grace() -> None:
    trace = make_trace([(10.0, "a")], horizon_s=1000)

    meters = Simulation(trace, make_setting(trace), Knative()).run()

    assert meters.idle_us == pytest.approx(90 * S, abs=3 * S)


def test_knative_scales_up_under_load() -> None:
    requests = [(10.0 + at / 10, "a") for at in range(300)]
    trace = make_trace(requests, horizon_s=200, service_s=10.0)
    config = AutoscalingConfig(max_ongoing_requests=10, max_replicas=20)

    meters = Simulation(
        trace, make_setting(trace, config=config, pool=Pool(nodes=20)), Knative()
    ).run()

    assert meters.starts > 5


def test_ray_serve_notices_a_request_at_zero_only_with_its_metrics() -> None:
    requests = [(1000.0 + 2000 * at, "a") for at in range(20)]
    trace = make_trace(requests, horizon_s=42_000)

    meters = Simulation(trace, make_setting(trace), RayServe(RAY_DEFAULTS)).run()

    noticed_s = (meters.waited_us / S - 4.0 * 20) / 20
    assert meters.starts == 20
    assert 3.0 < noticed_s < 16.0


def test_ray_serve_goes_to_zero_after_its_downscale_delay() -> None:
    trace = make_trace([(1000.0, "a")], horizon_s=3000)

    meters = Simulation(trace, make_setting(trace), RayServe(RAY_DEFAULTS)).run()

    assert meters.stops == 1
    assert 600 * S < meters.idle_us < 660 * S


def test_hybrid_histogram_prewarms_what_is_regular() -> None:
    requests = [(600.0 * at, "a") for at in range(1, 100)]
    trace = make_trace(requests, horizon_s=61_000)

    meters = Simulation(trace, make_setting(trace), Baseline(HybridHistogram())).run()

    assert meters.prewarms > 50
    assert meters.prewarm_hits > 50


def test_greedy_dual_evicts_what_is_seldom_used() -> None:
    """Two fit; b was used last, but a often: LRU evicts a, GreedyDual b."""
    often = [(10.0 * at, "a") for at in range(1, 20)]
    trace = make_trace([*often, (300.0, "b"), (320.0, "c"), (340.0, "a")], horizon_s=400)
    setting = make_setting(trace, pool=Pool(nodes=2))

    lru = Simulation(trace, setting, Baseline(Fixed(math.inf))).run()
    dual = Simulation(trace, setting, Baseline(Fixed(math.inf), GreedyDual())).run()

    assert (lru.cold, dual.cold) == (4, 3)


def test_clairvoyant_pays_the_optimum() -> None:
    requests = [(10.0, "a"), (50.0, "a"), (1000.0, "a"), (1001.0, "a")]
    trace = make_trace(requests, horizon_s=2000)

    meters = Simulation(
        trace, make_setting(trace), Baseline(Clairvoyant(trace, {"a": 4.0}, 30.0))
    ).run()

    paid_s = (meters.idle_us + meters.loading_us + 30 * meters.waited_us) / S
    # Start: 4 + 30 x 4. Kept from 11 to 50, less the 4 s by which the first was late. At 1000 two
    # wait 4 s and 3 s.
    # The first stop comes with a decision that was due then, the second a tick (0.1 s) late.
    assert paid_s == pytest.approx(124 + 35 + 4 + 30 * 7 + 0.1)
    assert per_gap_optimum(trace, [4.0], 30.0).cost_s == 124 + 39 + 4 + 30 * 7
