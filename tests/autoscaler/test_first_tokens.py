"""Whole cold starts, remembered per revision."""

import math

import pytest

from pilotlight_autoscaler import Autoscaler, AutoscalingConfig, InputError, ModelSnapshot, Tier
from pilotlight_autoscaler.first_tokens import MAX_SPANS, SAMPLES, FirstTokens
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_autoscaler.state import PolicyState


def told(revision_id: str = "r1") -> Autoscaler:
    autoscaler = Autoscaler()
    autoscaler.update_model(ModelSnapshot("m", revision_id, 100, AutoscalingConfig()))
    return autoscaler


def tokens(autoscaler: Autoscaler) -> FirstTokens:
    return autoscaler.view("m").learned.first_tokens


def test_quantiles_are_times_that_were_seen() -> None:
    assert Quantiles.of(range(1, 101)) == Quantiles(50, 95, 99)
    assert Quantiles.of([3.0]) == Quantiles(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="no samples"):
        Quantiles.of([])


def test_first_tokens_count_by_tier_and_in_all() -> None:
    found = FirstTokens("r")
    for seconds in (0.1, 0.2, 0.3):
        found.add(Tier.HOST, seconds, {"prefill": seconds})
    found.add(Tier.DISK, 2.0, {"stage": 1.5})

    assert {tier: seen.count for tier, seen in found.by_tier().items()} == {"host": 3, "disk": 1}
    assert found.by_tier()[Tier.HOST].seconds.p50 == 0.2
    assert found.by_tier()[Tier.HOST].spans["prefill"] == pytest.approx(0.2)
    assert (found.all.count, found.all.seconds.p95) == (4, 2.0)


def test_first_tokens_are_bounded_and_the_newest_decide() -> None:
    found = FirstTokens("r")
    for number in range(2 * SAMPLES):
        spans = {f"s{number}-{n}": 1.0 for n in range(MAX_SPANS)}
        found.add(Tier.HOST, 9.0 if number < SAMPLES else 1.0, spans)
    seen = found.by_tier()[Tier.HOST]

    assert (seen.count, seen.seconds.p99) == (2 * SAMPLES, 1.0)
    assert len(seen.spans) == MAX_SPANS


def test_spans_are_typical_ones_whatever_the_first_after_a_bake_took() -> None:
    found = FirstTokens("r")
    for prefill_s in (5.0, 0.1, 0.1):
        found.add(Tier.HOST, prefill_s, {"prefill": prefill_s})

    assert found.by_tier()[Tier.HOST].spans == {"prefill": 0.1}


def test_first_tokens_of_another_revision_begin_anew() -> None:
    autoscaler = told()
    autoscaler.answered_cold("m", "r1", Tier.HOST, 0.1, {})
    autoscaler.update_model(ModelSnapshot("m", "r2", 100, AutoscalingConfig()))
    autoscaler.answered_cold("m", "r2", Tier.HOST, 0.2, {})
    autoscaler.answered_cold("m", "r1", Tier.HOST, 0.1, {})  # late news of the old one

    assert tokens(autoscaler).all.count == 1
    assert tokens(autoscaler).all.seconds.p50 == 0.2


def test_first_tokens_decide_nothing() -> None:
    one, other = told(), told()
    other.answered_cold("m", "r1", Tier.HOST, 99.0, {"prefill": 98.0})

    assert one.decide(1.0) == other.decide(1.0)
    assert one.view("m").cold_start_s == other.view("m").cold_start_s


def test_first_tokens_are_found_again_in_saved_state() -> None:
    autoscaler = told()
    autoscaler.answered_cold("m", "r1", Tier.DISK, 0.5, {"stage": 0.4})
    saved = PolicyState.from_json(autoscaler.state().to_json())
    fresh = told()
    fresh.restore(saved)

    assert tokens(fresh).by_tier() == tokens(autoscaler).by_tier()
    assert tokens(fresh).revision_id == "r1"


def test_state_without_first_tokens_is_taken_over() -> None:
    old = {"version": 2, "models": {"m": {"rule": "rest"}}}
    fresh = told()
    fresh.restore(PolicyState.from_json(old))

    assert tokens(fresh).all is None


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_first_tokens_refuse_what_is_no_time(seconds: float) -> None:
    with pytest.raises(InputError, match="seconds to a first token of model 'm'"):
        told().answered_cold("m", "r1", Tier.HOST, seconds, {})
    with pytest.raises(InputError, match="seconds of span 'place'"):
        told().answered_cold("m", "r1", Tier.HOST, 1.0, {"place": seconds})
