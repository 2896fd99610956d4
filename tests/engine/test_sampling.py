import pytest
import torch

from pilotlight_platform.engine import sampling
from pilotlight_platform.errors import EngineError
from pilotlight_platform.schemas.generation import SamplingParams

LOGITS = torch.tensor([0.5, 3.0, -1.0, 2.0, 2.5])


def kept(**params):
    probabilities = sampling.distribution(LOGITS, SamplingParams(**params))

    assert float(probabilities.sum()) == pytest.approx(1)
    return set(probabilities.nonzero().flatten().tolist())


def test_temperature_zero_is_greedy():
    params = SamplingParams(temperature=0.0, top_k=3, top_p=0.5)

    assert sampling.choose(LOGITS, params, sampling.make_generator(None)) == 1


@pytest.mark.parametrize(("top_k", "tokens"), [(1, {1}), (2, {1, 4}), (5, set(range(5)))])
def test_top_k_keeps_the_best(top_k, tokens):
    assert kept(top_k=top_k) == tokens
    assert kept(top_k=0) == set(range(5))


def test_top_k_keeps_exactly_k_of_equals():
    probabilities = sampling.distribution(torch.zeros(6), SamplingParams(top_k=2))

    assert int((probabilities > 0).sum()) == 2


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probabilities = LOGITS.softmax(-1)
    first, second = float(probabilities[1]), float(probabilities[4])

    assert kept(top_p=first - 0.01) == {1}
    assert kept(top_p=first + 0.01) == {1, 4}
    assert kept(top_p=first + second + 0.01) == {1, 4, 3}


def test_tiny_top_p_still_keeps_the_best():
    assert kept(top_p=1e-9) == {1}


def test_tiny_temperature_is_nearly_greedy():
    assert kept(temperature=1e-30) == {1}


def test_temperature_scales_the_logits():
    actual = sampling.distribution(LOGITS, SamplingParams(temperature=2.0))

    torch.testing.assert_close(actual, (LOGITS / 2).softmax(-1))


def test_half_precision_is_computed_in_float32():
    assert sampling.distribution(LOGITS.bfloat16(), SamplingParams()).dtype == torch.float32


def test_seed_decides_the_choice():
    def draw(seed):
        generator = sampling.make_generator(seed)
        return [sampling.choose(LOGITS, SamplingParams(), generator) for _ in range(20)]

    assert draw(4) == draw(4)
    assert draw(4) != draw(5)
    assert draw(-(2**63)) == draw(-(2**63))


def test_frequencies_follow_the_distribution():
    generator = sampling.make_generator(0)
    draws = torch.tensor(
        [sampling.choose(LOGITS, SamplingParams(), generator) for _ in range(4000)]
    )

    actual = draws.bincount(minlength=5) / len(draws)

    torch.testing.assert_close(actual, LOGITS.softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at", [0, 17, 2048, 4098])
def test_not_a_number_is_found_wherever_it_stands(dtype, at):
    logits = torch.linspace(-3, 3, 4099).to(dtype)  # whole vectors of any kernel, and a rest
    logits[at] = float("nan")

    with pytest.raises(EngineError, match=r"NaN or infinite logits \(1 of 4099\)"):
        sampling.choose(logits, SamplingParams(temperature=0.0), sampling.make_generator(None))


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(4099, dtype=torch.bfloat16)
    logits[[33, 2000, 4098]] = 2.0

    assert sampling.choose(logits, SamplingParams(temperature=0.0), None) == 33


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(bad, temperature):
    logits = LOGITS.clone()
    logits[2] = bad

    with pytest.raises(EngineError, match=r"NaN or infinite logits \(1 of 5\)"):
        sampling.choose(logits, SamplingParams(temperature=temperature), sampling.make_generator(0))


def test_logprobs_are_those_before_temperature():
    found = sampling.logprobs(LOGITS, 3, 2)

    expected = LOGITS.log_softmax(-1)
    assert found.chosen == pytest.approx(float(expected[3]))
    assert found.top == (
        (1, pytest.approx(float(expected[1]))),
        (4, pytest.approx(float(expected[4]))),
    )
    assert sampling.logprobs(LOGITS, 3, 0).top == ()
    assert len(sampling.logprobs(LOGITS, 3, 20).top) == 5
