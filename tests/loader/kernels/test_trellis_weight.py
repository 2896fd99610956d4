"""A trellis' weight, dequantized by the compiled kernel, is what its codes stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.product_checks import assert_same_bits_by_any_threads

from pilotlight_loader.kernels import trellis_unit
from pilotlight_loader.kernels.trellis_weight import TrellisWeight
from pilotlight_loader.quantize import trellis_layout
from pilotlight_loader.quantize.matrix import TrellisMatrix
from pilotlight_loader.quantize.trellis import TABLES

# A value of each table as kernels have it, for the trial of a kernel that has another.
WRONG = (TABLES[0][5] + trellis_unit.OFFSET, TABLES[1][5], TABLES[2][5])


@pytest.fixture(scope="module", params=["ours", "narrow", "wide"])
def weight(request, compilers):
    return TrellisWeight(compilers[request.param])


def some_weight(blocks, groups, group, seed):
    """(packed, scales [groups, N], the weight [K, N] in float32)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = blocks * 32, groups * group
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    scales = torch.randn(rows, groups, generator=generator).bfloat16()
    dense = TrellisMatrix(codes, scales).dequantize()
    return trellis_layout.pack(codes), scales.t().contiguous(), dense.t()


@settings(deadline=None, max_examples=60)
@given(
    blocks=st.integers(1, 5),
    groups=st.integers(1, 5),
    group=st.sampled_from([32, 64, 128, 256]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_dequantize_any_part_is_the_reference(weight, blocks, groups, group, seed, data) -> None:
    """To the bit: a number of 8 bits times a scale of 8 is exact in float32."""
    packed, scales, dense = some_weight(blocks, groups, group, seed)
    first = data.draw(st.integers(0, blocks - 1))
    last = data.draw(st.integers(first + 1, blocks))
    found = torch.empty(groups * group, (last - first) * 32).bfloat16()
    weight.dequantize(packed, scales, first * 32, found)

    assert torch.equal(found, dense[:, first * 32 : last * 32].bfloat16())


def test_dequantize_has_the_same_bits_with_any_number_of_threads(weight) -> None:
    packed, scales, _ = some_weight(7, 3, 32, 1)

    def dequantized():
        found = torch.empty(96, 7 * 32).bfloat16()
        weight.dequantize(packed, scales, 0, found)
        return found

    assert_same_bits_by_any_threads(dequantized)


def test_dequantize_writes_nothing_but_the_weight(weight) -> None:
    packed, scales, _ = some_weight(2, 2, 32, 2)
    count = 64 * 64
    memory = torch.full((count + 64,), 7.0).bfloat16()
    weight.dequantize(packed, scales, 0, memory[32:-32].view(64, 64))

    assert memory[:32].eq(7).all()
    assert memory[-32:].eq(7).all()


def test_dequantize_rounds_ties_to_even(weight) -> None:
    """Numbers times 3 and 5, of which bfloat16 has eight bits."""
    codes = torch.randint(0, 16, (32, 512), generator=torch.Generator().manual_seed(0))
    codes = codes.to(torch.uint8)
    scales = torch.tensor([3.0, 5.0]).repeat(16)[:, None].bfloat16()
    exact = TrellisMatrix(codes, scales).dequantize().t()
    found = torch.empty(512, 32).bfloat16()
    weight.dequantize(trellis_layout.pack(codes), scales.t().contiguous(), 0, found)
    is_tie = exact.view(torch.int32).bitwise_and(0xFFFF) == 0x8000

    assert is_tie.sum() > 100
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("scale", [1e-38, 1e36])
def test_dequantize_with_extreme_scales_stays_finite(weight, scale) -> None:
    codes = torch.arange(32 * 32).remainder(16).to(torch.uint8).view(32, 32)
    scales = torch.full((32, 1), scale).bfloat16()
    expected = TrellisMatrix(codes, scales).dequantize().t()
    found = torch.empty(32, 32).bfloat16()
    weight.dequantize(trellis_layout.pack(codes), scales.t().contiguous(), 0, found)

    assert found.isfinite().all()
    assert torch.allclose(found.float(), expected, rtol=1 / 128, atol=1e-38)


@pytest.mark.parametrize("back", range(len(TABLES)))
def test_trial_refuses_a_table_that_has_one_wrong_value(compilers, monkeypatch, back) -> None:
    tables = list(trellis_unit._TABLES)
    tables[back] = tables[back].replace(f"i8 {WRONG[back]},", f"i8 {WRONG[back] + 5},")
    monkeypatch.setattr(trellis_unit, "_TABLES", tuple(tables))

    with pytest.raises(ArithmeticError, match=r"trellis.* wrong by"):
        TrellisWeight(compilers["ours"]).try_out()
