"""Products of plain bf16 weights are those of their numbers, whatever the shape."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels.bfloat_product import BfloatProduct

ROWS = [1, 2, 3, 4, 9]
shapes = st.tuples(st.integers(1, 70), st.integers(1, 40).map(lambda n: 16 * n))


@pytest.fixture(scope="module", params=["ours", "narrow"])
def product(request, compilers):
    return BfloatProduct(compilers[request.param])


def some(rows, width, seed=0, skip=0):
    """*skip* numbers off an aligned address."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows * width + skip, generator=generator).bfloat16()[skip:].view(rows, width)


def assert_near(actual, x, weight, bias=None):
    expected = x.double() @ weight.double().t()
    if bias is not None:
        expected += bias.double()
    allowed = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)

    assert bool(((actual.double() - expected).abs() <= expected.abs() / 256 + 1e-6 * allowed).all())


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    rows=st.integers(1, 23),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
    skip=st.integers(0, 7),
)
@example(shape=(1, 16), rows=1, has_bias=True, seed=0, skip=1)
@example(shape=(17, 272), rows=5, has_bias=True, seed=0, skip=3)
def test_rows_are_the_reference_for_any_shape(product, shape, rows, has_bias, seed, skip) -> None:
    weight, x = some(*shape, seed, skip), some(rows, shape[1], seed + 1)
    bias = some(1, shape[0], seed + 2)[0] * 10 if has_bias else None

    assert_near(product.rows(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_have_the_same_bits_with_any_number_of_threads(product, rows) -> None:
    weight, x = some(67, 352), some(rows, 352, 1)

    assert_same_bits_by_any_threads(lambda: product.rows(x, weight, None))


def test_rows_may_be_asked_for_by_several_threads(product) -> None:
    weight, xs = some(130, 512), [some(rows, 512, 1) for rows in ROWS]

    assert_right_for_each_of_several(lambda x: product.rows(x, weight, None), xs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_without_numbers_stay_by_themselves(product, rows, bad) -> None:
    weight, x = some(40, 64).abs() + 1, some(rows, 64, 1)
    x[0, 5] = bad
    actual = product.rows(x, weight, None)

    assert not actual[0].isfinite().any()
    assert actual[1:].isfinite().all()


@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_rounded_to_the_nearest_and_ties_to_even(product, rows) -> None:
    x = torch.zeros(rows, 16).bfloat16()
    x[:, 0] = 1
    x[:, 1] = 256
    weight = torch.zeros(3, 16).bfloat16()
    weight[:, 0] = torch.tensor([1.0, 3.0, 3.5])  # 257, 259 and 259.5; of 256, 258, 260
    weight[:, 1] = 1

    assert product.rows(x, weight, None).eq(torch.tensor([256.0, 260.0, 260.0])).all()
