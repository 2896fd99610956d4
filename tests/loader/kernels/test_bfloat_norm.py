"""The compiled norm has the bits of transformers', but for the order of a sum."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pilotlight_loader.kernels.bfloat_norm import BfloatNorm

EPSILON = 1e-5
WIDTHS = [1, 7, 16, 64, 100, 259, 1024]


@pytest.fixture(scope="module", params=["ours", "narrow", "wide"])
def norm(request, compilers):
    return BfloatNorm(compilers[request.param])


def theirs(x, weight, epsilon=EPSILON):
    module = LlamaRMSNorm(len(weight), epsilon)
    module.weight.data = weight
    with torch.no_grad():
        return module(x)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_same(actual, expected):
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.nan_to_num(7.0), expected.nan_to_num(7.0))


@settings(deadline=None, max_examples=80)
@given(
    width=st.integers(1, 600),
    rows=st.integers(1, 9),
    power=st.integers(-60, 55),
    seed=st.integers(0, 99),
    skip=st.integers(0, 7),
)
@example(width=1024, rows=1, power=0, seed=0, skip=1)
def test_norm_has_the_bits_of_transformers_where_sums_are_exact(
    norm, width, rows, power, seed, skip
) -> None:
    """Of small whole numbers, times a power of two: in whatever order they are added."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-20, 21, (rows * width + skip,), generator=generator) * 2.0**power
    x = x.bfloat16()[skip:].view(rows, width)
    weight = some(width, seed=seed)

    assert torch.equal(norm.rows(x, weight, EPSILON), theirs(x, weight))


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("width", WIDTHS)
def test_norm_of_any_numbers_is_at_most_a_rounding_off(norm, rows, width) -> None:
    x, weight = some(rows, width) * 3, some(width, seed=1)
    actual, expected = norm.rows(x, weight, EPSILON), theirs(x, weight)

    assert float((actual != expected).double().mean()) < 1e-3
    torch.testing.assert_close(actual, expected, rtol=2**-6, atol=0)


@pytest.mark.parametrize(
    "number", [0.0, -0.0, 1e-40, 1e-30, 3e38, torch.inf, -torch.inf, torch.nan]
)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("epsilon", [EPSILON, 0.0])
def test_norm_has_the_bits_of_transformers_for_extremes(norm, number, width, epsilon) -> None:
    """Where one is among others, and where all are; of which the squares are 0, infinite or NaN."""
    x = torch.zeros(3, width).bfloat16()
    x[0, width // 2], x[1] = number, number
    x[2] = 1
    weight = torch.ones(width).bfloat16()
    weight[0] = number

    assert_same(norm.rows(x, weight, epsilon), theirs(x, weight, epsilon))


def test_norm_rounds_before_the_weight(norm) -> None:
    """Once more than a product in float32 would: a third of these are others."""
    x, weight = torch.ones(1, 512).bfloat16(), some(512, seed=3)
    x[:, ::2] = 3
    once = x.double() / (x.double().square().mean() + EPSILON).sqrt() * weight.double()
    actual = norm.rows(x, weight, EPSILON)

    assert torch.equal(actual, theirs(x, weight))
    assert not torch.equal(actual, once.bfloat16())


@pytest.mark.parametrize("shape", [(64,), (2, 3, 64), (2, 1, 4, 64)], ids=str)
def test_norm_keeps_the_shape(norm, shape) -> None:
    x, weight = torch.full(shape, 3.0).bfloat16(), some(64)
    actual = norm.rows(x, weight, EPSILON)

    assert actual.shape == shape
    assert torch.equal(actual, theirs(x, weight))


def test_norm_has_the_same_bits_with_any_number_of_threads(norm) -> None:
    x, weight = some(37, 300), some(300, seed=1)

    assert_same_bits_by_any_threads(lambda: norm.rows(x, weight, EPSILON))


def test_norm_may_be_asked_for_by_several_threads(norm) -> None:
    weight = some(512)

    assert_right_for_each_of_several(
        lambda x: norm.rows(x, weight, EPSILON), [some(rows, 512, seed=rows) for rows in (1, 2, 40)]
    )
