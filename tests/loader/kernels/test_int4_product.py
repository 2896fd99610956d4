"""Products of 4-bit weights in 16-bit integers are those of their codes, whatever the shape."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels import int4_product
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.kernels.int4_product import Int4Product
from pilotlight_loader.quantize import int4_layout

GROUPS = [32, 64, 128, 256]
ROWS = [1, 2, 3, 9]  # a kernel of its own for one and for two; then tiles of four


@pytest.fixture(scope="module", params=int4_layout.BLOCKS)
def block(request):
    return request.param


@pytest.fixture(scope="module")
def product(block):
    pytest.importorskip("llvmlite")
    return Int4Product(Compiler(), block)


def some_weight(blocks, groups, group, block, seed=0):
    """(packed, pairs, the weight [N, K] in float64)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = blocks * block, groups * group
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    scales, zeros = (torch.randn(rows, groups, generator=generator).bfloat16() for _ in range(2))
    dense = (codes.double() - 8).view(rows, groups, group) * scales.double()[..., None]
    dense = (dense + zeros.double()[..., None]).view(rows, columns)
    return int4_layout.pack(codes, block), int4_layout.pack_scales(scales, zeros), dense


def some_x(rows, width, seed=0):
    """With numbers of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(rows, width, generator=generator).mul(3).exp()
    return (torch.randn(rows, width, generator=generator) * sizes).bfloat16()


def assert_rounded(actual, x, dense, pairs):
    """Off by its own rounding, and by 1e-4 of the norms of what is added up: codes of 0 … 15."""
    expected = x.double() @ dense.t()
    scales, zeros = pairs.double().unbind(-1)
    largest = (15 * scales.abs()).maximum((zeros - 8 * scales).abs()).amax(0)
    allowed = x.double().norm(dim=1)[:, None] * largest * x.shape[1] ** 0.5

    assert bool(((actual.double() - expected).abs() <= expected.abs() / 256 + 1e-4 * allowed).all())


@settings(deadline=None, max_examples=100)
@given(
    blocks=st.integers(1, 5),
    groups=st.integers(1, 5),
    group=st.sampled_from(GROUPS),
    rows=st.integers(1, 23),
    seed=st.integers(0, 99),
)
@example(blocks=1, groups=1, group=32, rows=1, seed=0)
@example(blocks=3, groups=3, group=64, rows=5, seed=0)
def test_rows_are_the_reference_for_any_shape(product, block, blocks, groups, group, rows, seed):
    packed, pairs, dense = some_weight(blocks, groups, group, block, seed)
    x = some_x(rows, groups * group, seed)

    assert_rounded(product.rows(x, packed, pairs), x, dense, pairs)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_tell_every_column_of_every_row(product, block, rows) -> None:
    """Of one column alone, so that no other makes up for it."""
    packed, pairs, dense = some_weight(2, 2, 32, block)
    for column in range(64):
        x = torch.zeros(rows, 64).bfloat16()
        x[-1, column] = 2.0
        actual = product.rows(x, packed, pairs)

        assert torch.allclose(actual[-1].double(), 2 * dense[:, column], rtol=1 / 256, atol=1e-3)
        assert not actual[:-1].any()


def test_rows_of_largest_numbers_do_not_overflow(product, block) -> None:
    codes = torch.full((block, 512), 15).to(torch.uint8)
    packed = int4_layout.pack(codes, block)
    pairs = int4_layout.pack_scales(torch.ones(block, 2).bfloat16(), None)
    for rows in ROWS:
        actual = product.rows(torch.full((rows, 512), -3.0).bfloat16(), packed, pairs)

        assert actual.eq(torch.tensor(-3.0 * 7 * 512).bfloat16()).all()


def test_rows_more_than_are_multiplied_at_once(product, block, monkeypatch) -> None:
    monkeypatch.setattr(int4_product, "_AT_ONCE", 8)
    packed, pairs, dense = some_weight(2, 3, 32, block)
    for rows in (8, 9, 16, 19):  # nothing left, and a row that a kernel for few takes
        x = some_x(rows, 96)

        assert_rounded(product.rows(x, packed, pairs), x, dense, pairs)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_have_the_same_bits_with_any_number_of_threads(product, block, rows) -> None:
    (packed, pairs, _), x = some_weight(3, 3, 32, block), some_x(rows, 96)

    assert_same_bits_by_any_threads(lambda: product.rows(x, packed, pairs))


def test_rows_are_summed_up_by_each_thread_for_itself(product, block) -> None:
    """Of a weight that is large enough for threads to work at the same time."""
    (packed, pairs, _), x = some_weight(64 // (block // 32), 8, 128, block), some_x(64, 1024)

    assert_same_bits_by_any_threads(lambda: product.rows(x, packed, pairs))


def test_rows_of_next_to_nothing_are_zero(product, block) -> None:
    packed, pairs, _ = some_weight(1, 2, 32, block)
    for rows in ROWS:
        for size in (0.0, 1e-38, 1e-40):
            actual = product.rows(torch.full((rows, 64), size).bfloat16(), packed, pairs)

            assert actual.isfinite().all()
            assert actual.abs().max() <= 64 * size * 100


def test_rows_of_huge_numbers_do_not_overflow_on_their_way(product, block) -> None:
    codes = torch.full((block, 64), 9).to(torch.uint8)
    packed = int4_layout.pack(codes, block)
    pairs = int4_layout.pack_scales(torch.full((block, 1), 1e-3).bfloat16(), None)
    for rows in ROWS:
        x = torch.full((rows, 64), 1e36).bfloat16()

        assert product.rows(x, packed, pairs).allclose(torch.tensor(6.4e34).bfloat16(), rtol=0.02)


def test_rows_may_be_asked_for_by_several_threads(product, block) -> None:
    (packed, pairs, _), xs = some_weight(4, 4, 128, block), [some_x(rows, 512) for rows in ROWS]

    assert_right_for_each_of_several(lambda x: product.rows(x, packed, pairs), xs)


def test_rows_need_memory_for_x_alone(product, block, monkeypatch) -> None:
    """Not for numbers of the weight."""
    asked = []
    real = int4_product.scratch_address

    def noting(nbytes):
        asked.append(nbytes)
        return real(nbytes)

    monkeypatch.setattr(int4_product, "scratch_address", noting)
    for blocks in (1, 5):
        packed, pairs, _ = some_weight(blocks, 2, 64, block)
        product.rows(some_x(int4_product._AT_ONCE + 7, 128), packed, pairs)

    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_without_numbers_stay_by_themselves(product, block, rows, bad) -> None:
    packed, pairs, _ = some_weight(2, 2, 32, block)
    x = some_x(rows, 64)
    x[0, 5] = bad
    actual = product.rows(x, packed, pairs)

    assert not actual[0].isfinite().any()
    assert actual[1:].isfinite().all()
