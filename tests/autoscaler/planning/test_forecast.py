"""What a cold start will take: composed of spans, measured where something was."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_autoscaler import InputError, Tier
from pilotlight_autoscaler.first_tokens import FirstTokens
from pilotlight_autoscaler.planning.forecast import (
    ASSUMED_S,
    ASSUMED_SPREAD,
    ENOUGH,
    Basis,
    forecast,
    warm_forecast,
)
from pilotlight_autoscaler.planning.knowledge import Knowledge, Neighbour, Weights

GB = 10**9
TIERS = (Tier.HOST, Tier.DISK, Tier.REMOTE)
nbytes = st.integers(1, 10**12)
rates = st.floats(1e6, 1e12)


def weights(size: int, layers: int = 10) -> Weights:
    return Weights(size, size, size, layers)


def links(rate: float) -> Knowledge:
    return Knowledge(bytes_per_s={Tier.HOST: 10 * rate, Tier.DISK: rate, Tier.REMOTE: rate / 10})


def seen(count: int, seconds: float, tier: Tier = Tier.HOST, **spans: float) -> FirstTokens:
    tokens = FirstTokens("r")
    for _ in range(count):
        tokens.add(tier, seconds, spans)
    return tokens


@given(nbytes, nbytes, rates, st.sampled_from(TIERS), st.integers(1, 200), st.booleans())
def test_forecast_does_not_fall_with_bytes(
    one: int, other: int, rate: float, tier: Tier, layers: int, starts: bool
) -> None:
    small, large = sorted((one, other))
    less = forecast(weights(small, layers), tier, links(rate), starts_worker=starts)
    more = forecast(weights(large, layers), tier, links(rate), starts_worker=starts)

    assert less.seconds.p50 <= more.seconds.p50
    assert less.seconds.p95 <= more.seconds.p95


@given(nbytes, nbytes, nbytes, st.floats(0.001, 100.0))
def test_forecast_does_not_fall_with_bytes_beside_another_model(
    one: int, other: int, neighbour: int, prefill_s: float
) -> None:
    known = Knowledge(
        others=(Neighbour(neighbour, seen(1, prefill_s, prefill=prefill_s).by_tier()),)
    )
    small, large = sorted((one, other))

    first, second = (forecast(weights(size), Tier.HOST, known) for size in (small, large))
    assert first.seconds.p50 <= second.seconds.p50


@given(nbytes, rates, rates, st.sampled_from(TIERS))
def test_forecast_does_not_rise_with_bandwidth(
    size: int, one: float, other: float, tier: Tier
) -> None:
    slow, fast = sorted((one, other))
    slower, faster = (forecast(weights(size), tier, links(rate)) for rate in (slow, fast))

    assert faster.seconds.p50 <= slower.seconds.p50


@given(nbytes, rates)
def test_forecast_is_no_shorter_from_a_farther_tier(size: int, rate: float) -> None:
    near, disk, far = (forecast(weights(size), tier, links(rate)).seconds.p50 for tier in TIERS)

    # The look-up of pages, where there is nothing to read, may cost more than reading a few.
    assert near - ASSUMED_S["stage"] <= disk <= far
    assert warm_forecast(weights(size), links(rate)).seconds.p50 < near


def test_forecast_of_a_pipeline_is_its_slowest_stage_and_one_part_of_each_other() -> None:
    known = Knowledge(bytes_per_s={Tier.HOST: 10e9, Tier.DISK: 2e9, Tier.REMOTE: 1e9})
    found = forecast(Weights(4 * GB, 8 * GB, 4 * GB, layers=8), Tier.REMOTE, known)
    serial_s = sum(ASSUMED_S[name] for name in ("admit", "place", "attach", "first_token"))

    # fetch 4 s, stage 2 s, prefill 0.8 s and what it takes beside its bytes.
    assert found.seconds.p50 == pytest.approx(serial_s + 4 + (2 + 0.8 + ASSUMED_S["prefill"]) / 8)
    assert [(s.name, s.basis) for s in found.spans if s.name in {"fetch", "stage", "prefill"}] == [
        ("fetch", Basis.LINK),
        ("stage", Basis.LINK),
        ("prefill", Basis.ASSUMED),
    ]


def test_forecast_without_measurements_says_that_all_is_assumed() -> None:
    found = forecast(weights(GB), Tier.DISK, Knowledge(), starts_worker=True)

    assert {span.basis for span in found.spans} == {Basis.ASSUMED}
    assert (found.basis, found.spread) == (Basis.ASSUMED, Basis.ASSUMED)
    assert found.seconds.p95 == pytest.approx(found.seconds.p50 * ASSUMED_SPREAD[0])
    assert "place" not in {span.name for span in found.spans}  # start_worker stands in its place


def test_forecast_takes_what_this_model_took() -> None:
    own = seen(ENOUGH, 0.25, prefill=0.2, admit=0.001).by_tier()
    found = forecast(weights(GB), Tier.HOST, Knowledge(own=own))

    assert found.seconds.p50 == found.seconds.p99 == 0.25
    assert (found.basis, found.spread) == (Basis.TIMELINES, Basis.TIMELINES)
    assert {s.name: s.basis for s in found.spans}["place"] is Basis.ASSUMED


def test_forecast_of_few_timelines_is_no_better_than_what_was_seen() -> None:
    tokens = seen(3, 0.1)
    tokens.add(Tier.HOST, 0.5, {})
    found = forecast(weights(GB), Tier.HOST, Knowledge(own=tokens.by_tier()))

    assert found.spread is Basis.ASSUMED
    assert found.seconds.p95 == 0.5


def test_forecast_takes_no_less_than_a_smaller_model_took_and_asks_no_larger_one() -> None:
    def prefill_s(neighbour: int) -> float:
        known = Knowledge(others=(Neighbour(neighbour, seen(1, 9.0, prefill=8.0).by_tier()),))
        spans = forecast(weights(GB), Tier.HOST, known).spans
        return next(span.seconds for span in spans if span.name == "prefill")

    assert prefill_s(GB // 2) == 8.0
    assert prefill_s(2 * GB) == prefill_s(10**12) < 1


def test_forecast_from_memory_helps_that_from_the_disk() -> None:
    own = seen(1, 0.3, prefill=0.28).by_tier()
    known = Knowledge(bytes_per_s={Tier.DISK: 1e9}, own=own)
    spans = {s.name: s for s in forecast(weights(GB), Tier.DISK, known).spans}

    assert (spans["prefill"].seconds, spans["prefill"].basis) == (0.28, Basis.TIMELINES)
    assert (spans["stage"].seconds, spans["stage"].basis) == (1.0, Basis.LINK)


def test_forecast_with_a_worker_to_start_is_longer_by_that() -> None:
    own = seen(ENOUGH, 0.25, place=0.01, prefill=0.2).by_tier()
    known = Knowledge(own=own)
    warm = forecast(weights(GB), Tier.HOST, known)
    cold = forecast(weights(GB), Tier.HOST, known, starts_worker=True)

    assert cold.seconds.p50 > ASSUMED_S["start_worker"] > warm.seconds.p50
    assert cold.longest.name == "start_worker"


def test_forecast_of_another_quantization_is_no_measured_one() -> None:
    known = Knowledge(own=seen(ENOUGH, 0.25, prefill=0.2, place=0.003).by_tier())
    found = forecast(
        Weights(GB // 4, GB, GB, 10), Tier.HOST, known.of_other_weights(compute_nbytes=GB)
    )

    assert found.basis is Basis.OTHERS
    assert {s.name: s.basis for s in found.spans}["prefill"] is Basis.OTHERS


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
def test_forecast_refuses_bytes_that_are_none(size: float) -> None:
    with pytest.raises(InputError, match="nbytes of the weights"):
        forecast(Weights(size, 1, 1, 1), Tier.HOST, Knowledge())
