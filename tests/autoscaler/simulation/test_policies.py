"""Every policy runs on the same trace through the same protocol, ours among them."""

import pytest
from support.simulated import make_setting, make_trace

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.comparing import simulate, simulate_regime
from pilotlight_autoscaler.simulation.errors import SettingError
from pilotlight_autoscaler.simulation.fleet import cold_starts_s
from pilotlight_autoscaler.simulation.policies import make_policy, policy_names
from pilotlight_autoscaler.simulation.regimes import adversarial_suite
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace

NAMES = [*(name for name in policy_names() if name != "fixedN"), "fixed600"]


@pytest.mark.parametrize("name", NAMES)
def test_policy_answers_every_request(name: str) -> None:
    trace = azure_trace(Traffic(models=12, days=0.25, seed=1, max_daily_requests=500))

    result = simulate(trace, make_setting(trace), name)

    assert result.requests == len(trace)
    assert 0 < result.cold_requests <= result.requests


@pytest.mark.parametrize("name", ["pilotlight", "lru", "gdsf"])
def test_policy_answers_every_request_where_few_models_fit(name: str) -> None:
    trace = azure_trace(Traffic(models=12, days=0.25, seed=1, max_daily_requests=500))

    result = simulate(trace, make_setting(trace, pool=Pool(nodes=4)), name)

    assert result.requests == len(trace)


def test_make_policy_names_those_that_exist() -> None:
    trace = make_trace([(1.0, "a")], 10)

    with pytest.raises(SettingError, match="no policy 'best': there are pilotlight, ray"):
        make_policy("best", trace, make_setting(trace))


def test_adversarial_suite_has_distinct_deterministic_traces() -> None:
    first, again = adversarial_suite(1), adversarial_suite(1)

    assert len({regime.name for regime in first}) == len(first) >= 22
    assert [regime.trace.digest() for regime in first] == [
        regime.trace.digest() for regime in again
    ]


def test_adaptive_adversary_costs_ski_rental_twice_the_optimum() -> None:
    regime = next(each for each in adversarial_suite(1) if each.name == "adaptive-8s")

    result = simulate_regime(regime, "ski", AutoscalingConfig(max_ongoing_requests=100), 1)

    assert result.optimum_ratio == pytest.approx(2.0, abs=0.1)


def test_cold_starts_are_drawn_by_seed() -> None:
    names = [f"m{at}" for at in range(50)]

    assert cold_starts_s(names, 1) == cold_starts_s(names, 1)
    assert cold_starts_s(names, 1) != cold_starts_s(names, 2)
