"""Compiled products of int8 and fp8 weights are those of their codes, whatever the shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels.byte_product import MAX_ROWS, ByteProduct

KINDS = ["int8", "fp8"]
shapes = st.tuples(st.integers(1, 70), st.integers(1, 40).map(lambda n: 16 * n))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=["ours", "narrow"])
def product(request, kind, compilers):
    return ByteProduct(compilers[request.param], kind)


def some_codes(kind, shape, seed=0, skip=0):
    """Every code, at an address that is *skip* bytes off an aligned one."""
    generator = torch.Generator().manual_seed(seed)
    count = shape[0] * shape[1]
    codes = torch.randint(0, 256, (count + skip,), generator=generator).to(torch.uint8)
    if kind == "fp8":
        codes[codes & 0x7F == 0x7F] = 0  # NaN, which no file has
    dtype = torch.int8 if kind == "int8" else torch.float8_e4m3fn
    return codes[skip:].view(dtype).view(shape)


def some_scales(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)).bfloat16()


def some_x(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).bfloat16()


def reference(x, codes, scales):
    return (x.double() @ codes.double().t()) * scales.double()


def assert_near(actual, expected):
    error = (actual.double() - expected).abs()

    assert bool((error <= 0.004 * expected.abs() + 1e-4 * expected.norm()).all())


@settings(deadline=None, max_examples=60)
@given(shape=shapes, rows=st.integers(1, MAX_ROWS), seed=st.integers(0, 99), skip=st.integers(0, 7))
def test_rows_are_the_reference_for_any_shape(kind, product, shape, rows, seed, skip) -> None:
    codes, scales = some_codes(kind, shape, seed, skip), some_scales(shape[0], seed)
    x = some_x(rows, shape[1], seed)

    assert_near(product.rows(x, codes, scales), reference(x, codes, scales))


def test_rows_have_the_same_bits_with_any_number_of_threads(kind, product) -> None:
    codes, scales, x = some_codes(kind, (67, 352)), some_scales(67), some_x(3, 352)

    assert_same_bits_by_any_threads(lambda: product.rows(x, codes, scales))


def test_rows_may_be_asked_for_by_several_threads(kind, product) -> None:
    codes, scales = some_codes(kind, (130, 512)), some_scales(130)
    xs = [some_x(rows, 512) for rows in range(1, MAX_ROWS + 1)]

    assert_right_for_each_of_several(lambda x: product.rows(x, codes, scales), xs)


@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
def test_rows_without_numbers_stay_by_themselves(kind, product, rows) -> None:
    codes, scales, x = some_codes(kind, (40, 64)), some_scales(40) + 1, some_x(rows, 64)
    x[0, 5] = torch.nan
    actual = product.rows(x, codes, scales)

    assert actual[0].isnan().all()
    assert actual[1:].isfinite().all()


@pytest.mark.parametrize("kind", ["fp8"], indirect=True)
def test_numbers_are_every_code_of_fp8(product) -> None:
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    numbers = torch.empty(256).bfloat16()
    product.numbers(codes, numbers)
    is_nan = codes.float().isnan()

    assert torch.equal(numbers[~is_nan], codes[~is_nan].bfloat16())
