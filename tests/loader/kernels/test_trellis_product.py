"""Products of a trellis' weights in 16-bit integers are those of their codes, of any shape."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels import int4_product, trellis_unit
from pilotlight_loader.kernels.int4_product import TrellisProduct
from pilotlight_loader.quantize import trellis_layout
from pilotlight_loader.quantize.matrix import TrellisMatrix
from pilotlight_loader.quantize.trellis import TABLES

GROUPS = [32, 64, 128, 256]
ROWS = [1, 2, 3, 9]  # a kernel of its own for one and for two; then tiles of four


# A value of each table as kernels have it, for the trial of a kernel that has another.
WRONG = (TABLES[0][5] + trellis_unit.OFFSET, TABLES[1][5], TABLES[2][5])


@pytest.fixture(scope="module", params=["ours", "narrow"])
def product(request, compilers):
    return TrellisProduct(compilers[request.param])


def weight_of(codes, scales):
    """(packed, scales [groups, N], the weight [N, K] in float64)."""
    dense = TrellisMatrix(codes, scales).dequantize().double()
    return trellis_layout.pack(codes), scales.t().contiguous(), dense


def some_weight(blocks, groups, group, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = blocks * 32, groups * group
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    return weight_of(codes, torch.randn(rows, groups, generator=generator).bfloat16())


def some_x(rows, width, seed=0):
    """With numbers of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(rows, width, generator=generator).mul(3).exp()
    return (torch.randn(rows, width, generator=generator) * sizes).bfloat16()


def assert_rounded(actual, x, dense, scales):
    """Off by its own rounding, and by 1e-4 of the norms of what is added up: bytes of 0 … 255."""
    expected = x.double() @ dense.t()
    largest = 255 * scales.double().abs().amax(0)
    allowed = x.double().norm(dim=1)[:, None] * largest * x.shape[1] ** 0.5

    assert bool(((actual.double() - expected).abs() <= expected.abs() / 256 + 1e-4 * allowed).all())


@settings(deadline=None, max_examples=100)
@given(
    blocks=st.integers(1, 5),
    groups=st.integers(1, 5),
    group=st.sampled_from(GROUPS),
    rows=st.integers(1, 33),
    seed=st.integers(0, 99),
)
@example(blocks=1, groups=1, group=32, rows=1, seed=0)
@example(blocks=3, groups=3, group=64, rows=5, seed=0)
@example(blocks=2, groups=1, group=256, rows=33, seed=0)
def test_rows_are_the_reference_for_any_shape(product, blocks, groups, group, rows, seed) -> None:
    packed, scales, dense = some_weight(blocks, groups, group, seed)
    x = some_x(rows, groups * group, seed)

    assert_rounded(product.rows(x, packed, scales), x, dense, scales)


@pytest.mark.parametrize("rows", [*range(1, 34), 300])
def test_rows_of_any_number_are_near(product, rows) -> None:
    """Of numbers that are alike, as a model has them: errors do not hide behind large ones."""
    packed, scales, dense = some_weight(3, 2, 128)
    x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows)).bfloat16()
    actual, expected = product.rows(x, packed, scales), x.double() @ dense.t()
    off = (actual.double() - expected).norm(dim=1)

    assert bool((off < 3e-3 * expected.norm(dim=1)).all())


@pytest.mark.parametrize("rows", ROWS)
def test_rows_tell_every_column_of_every_row(product, rows) -> None:
    """Of one column alone, so that no other makes up for it."""
    packed, scales, dense = some_weight(2, 2, 32)
    for column in range(64):
        x = torch.zeros(rows, 64).bfloat16()
        x[-1, column] = 2.0
        actual = product.rows(x, packed, scales)

        assert torch.allclose(actual[-1].double(), 2 * dense[:, column], rtol=1 / 256, atol=1e-2)
        assert not actual[:-1].any()


@pytest.mark.parametrize("rows", ROWS)
def test_rows_begin_with_codes_of_zero_in_every_block(product, rows) -> None:
    """Not with the last ones of the block that a thread had before."""
    packed, scales, dense = some_weight(9, 1, 32)
    x = torch.zeros(rows, 32).bfloat16()
    x[:, :2] = 1.0
    expected = (x.double() @ dense.t())[0]

    assert torch.allclose(product.rows(x, packed, scales).double(), expected, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("code", [0, 15])
@pytest.mark.parametrize("size", [-3.0, 3.0])
def test_rows_of_largest_numbers_do_not_overflow(product, group, code, size) -> None:
    """Of the outermost codes, each of which follows itself."""
    codes = torch.full((32, 2 * group), code).to(torch.uint8)
    packed, scales, dense = weight_of(codes, torch.ones(32, 2).bfloat16())
    for rows in ROWS:
        x = torch.full((rows, 2 * group), size).bfloat16()
        actual, expected = product.rows(x, packed, scales), x.double() @ dense.t()

        assert torch.allclose(actual.double(), expected, rtol=1 / 200)


def test_rows_more_than_are_multiplied_at_once(product, monkeypatch) -> None:
    monkeypatch.setattr(int4_product, "_AT_ONCE", 8)
    packed, scales, dense = some_weight(2, 3, 32)
    for rows in (8, 9, 16, 19):  # nothing left, and a row that a kernel for few takes
        x = some_x(rows, 96)

        assert_rounded(product.rows(x, packed, scales), x, dense, scales)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_have_the_same_bits_with_any_number_of_threads(product, rows) -> None:
    (packed, scales, _), x = some_weight(7, 3, 32), some_x(rows, 96)

    assert_same_bits_by_any_threads(lambda: product.rows(x, packed, scales))


def test_rows_are_summed_up_by_each_thread_for_itself(product) -> None:
    """Of a weight that is large enough for threads to work at the same time."""
    (packed, scales, _), x = some_weight(64, 8, 128), some_x(64, 1024)

    assert_same_bits_by_any_threads(lambda: product.rows(x, packed, scales))


def test_rows_of_next_to_nothing_are_zero(product) -> None:
    packed, scales, _ = some_weight(1, 2, 32)
    for rows in ROWS:
        for size in (0.0, 1e-38, 1e-40):
            actual = product.rows(torch.full((rows, 64), size).bfloat16(), packed, scales)

            assert actual.isfinite().all()
            assert actual.abs().max() <= 64 * size * 500


@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_huge_numbers_do_not_overflow_on_their_way(product, rows) -> None:
    codes = torch.full((32, 64), 9).to(torch.uint8)
    packed, scales, dense = weight_of(codes, torch.full((32, 1), 1e-4).bfloat16())
    x = torch.full((rows, 64), 1e36).bfloat16()
    actual, expected = product.rows(x, packed, scales), x.double() @ dense.t()

    assert expected.abs().max() < 1e38
    assert torch.allclose(actual.double(), expected, rtol=0.02)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_without_a_scale_are_zero(product, rows) -> None:
    packed, scales, _ = some_weight(2, 2, 32)
    scales[:, 5] = 0
    actual = product.rows(some_x(rows, 64), packed, scales)

    assert not actual[:, 5].any()
    assert actual[:, :5].any(0).all()


def test_rows_may_be_asked_for_by_several_threads(product) -> None:
    (packed, scales, _), xs = some_weight(4, 4, 128), [some_x(rows, 512) for rows in ROWS]

    assert_right_for_each_of_several(lambda x: product.rows(x, packed, scales), xs)


def test_rows_need_memory_for_x_alone(product, monkeypatch) -> None:
    """Not for numbers of the weight."""
    asked = []
    real = int4_product.scratch_address

    def noting(nbytes):
        asked.append(nbytes)
        return real(nbytes)

    monkeypatch.setattr(int4_product, "scratch_address", noting)
    for blocks in (1, 5):
        packed, scales, _ = some_weight(blocks, 2, 64)
        product.rows(some_x(int4_product._AT_ONCE + 7, 128), packed, scales)

    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_without_numbers_stay_by_themselves(product, rows, bad) -> None:
    packed, scales, _ = some_weight(2, 2, 32)
    x = some_x(rows, 64)
    x[0, 5] = bad
    actual = product.rows(x, packed, scales)

    assert not actual[0].isfinite().any()
    assert actual[1:].isfinite().all()


@pytest.mark.parametrize("back", range(len(TABLES)))
def test_trial_refuses_a_table_that_has_one_wrong_value(compilers, monkeypatch, back) -> None:
    tables = list(trellis_unit._TABLES)
    tables[back] = tables[back].replace(f"i8 {WRONG[back]},", f"i8 {WRONG[back] + 5},")
    monkeypatch.setattr(trellis_unit, "_TABLES", tuple(tables))

    with pytest.raises(ArithmeticError, match=r"trellis, 1 rows.* wrong by"):
        TrellisProduct(compilers["ours"]).try_out()
