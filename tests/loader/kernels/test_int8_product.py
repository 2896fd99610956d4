"""Products of int8 weights in 16-bit integers are those of their codes, whatever the shape."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels import int8_product, int8_rows
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.kernels.int8_product import Int8Product

ROWS = [1, 2, 3, 4, 9]  # kernels of their own up to four; then tiles
shapes = st.tuples(st.integers(1, 70), st.integers(1, 40).map(lambda n: 16 * n))


@pytest.fixture(scope="module")
def product():
    pytest.importorskip("llvmlite")
    return Int8Product(Compiler())


def some_weight(height, width, seed=0, skip=0):
    """Every code, *skip* bytes off an aligned address; scales."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (height * width + skip,), generator=generator)
    scales = torch.rand(height, generator=generator).bfloat16()
    return codes.to(torch.int8)[skip:].view(height, width), scales


def some_x(rows, width, seed=0):
    """With numbers of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(rows, width, generator=generator).mul(3).exp()
    return (torch.randn(rows, width, generator=generator) * sizes).bfloat16()


def assert_rounded(actual, x, codes, scales):
    """Each number is off by its own rounding, and by that of 256 numbers of x: 2.5e-4 of norms."""
    dense = codes.double() * scales.double()[:, None]
    expected = x.double() @ dense.t()
    allowed = x.double().norm(dim=1)[:, None] * dense.norm(dim=1)

    assert bool(
        ((actual.double() - expected).abs() <= expected.abs() / 256 + 2.5e-4 * allowed).all()
    )


@settings(deadline=None, max_examples=100)
@given(shape=shapes, rows=st.integers(1, 23), seed=st.integers(0, 99), skip=st.integers(0, 7))
@example(shape=(1, 16), rows=1, seed=0, skip=1)
@example(shape=(17, 272), rows=5, seed=0, skip=3)  # one row and one register are left over
def test_rows_are_the_reference_for_any_shape(product, shape, rows, seed, skip) -> None:
    codes, scales = some_weight(*shape, seed, skip)
    x = some_x(rows, shape[1], seed)

    assert_rounded(product.rows(x, codes, scales), x, codes, scales)


def test_rows_of_largest_numbers_do_not_overflow(product) -> None:
    width = 4 * int8_rows.GROUP
    codes, scales = torch.full((3, width), -128).to(torch.int8), torch.ones(3).bfloat16()
    for rows in (1, 4, 9):
        x = torch.full((rows, width), 3.0).bfloat16()

        assert_rounded(product.rows(x, codes, scales), x, codes, scales)


def test_rows_more_than_are_multiplied_at_once(product, monkeypatch) -> None:
    monkeypatch.setattr(int8_product, "_AT_ONCE", 8)
    codes, scales = some_weight(35, 288)
    for rows in (8, 9, 16, 19):  # nothing left, and a row that a kernel for few takes
        x = some_x(rows, 288)

        assert_rounded(product.rows(x, codes, scales), x, codes, scales)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_have_the_same_bits_with_any_number_of_threads(product, rows) -> None:
    (codes, scales), x = some_weight(67, 352), some_x(rows, 352)

    assert_same_bits_by_any_threads(lambda: product.rows(x, codes, scales))


def test_rows_may_be_asked_for_by_several_threads(product) -> None:
    (codes, scales), xs = some_weight(130, 512), [some_x(rows, 512) for rows in ROWS]

    assert_right_for_each_of_several(lambda x: product.rows(x, codes, scales), xs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_rows_without_numbers_stay_by_themselves(product, rows, bad) -> None:
    codes, scales = some_weight(40, 64)
    x = some_x(rows, 64)
    x[0, 5] = bad
    actual = product.rows(x, codes, scales + 1)

    assert not actual[0].isfinite().any()
    assert actual[1:].isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-40])
def test_rows_of_next_to_nothing_are_zero(product, size) -> None:
    codes, scales = some_weight(40, 64)
    for rows in (1, 6):
        actual = product.rows(torch.full((rows, 64), size).bfloat16(), codes, scales)

        assert actual.abs().max() <= size * 127 * 64
