"""A weight of 4 bits, dequantized by the compiled kernel, is what its codes stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.product_checks import assert_same_bits_by_any_threads

from pilotlight_loader.kernels.int4_weight import Int4Weight
from pilotlight_loader.quantize import int4_layout


@pytest.fixture(scope="module", params=int4_layout.BLOCKS)
def block(request):
    return request.param


@pytest.fixture(scope="module")
def weights(compilers, block):
    return {name: Int4Weight(compiler, block) for name, compiler in compilers.items()}


def some_weight(blocks, groups, group, block, seed):
    """(packed, pairs, the weight [K, N] in float32)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = blocks * block, groups * group
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    scales, zeros = (torch.randn(rows, groups, generator=generator).bfloat16() for _ in range(2))
    dense = (codes.float() - 8).view(rows, groups, group) * scales.float()[..., None]
    dense = (dense + zeros.float()[..., None]).view(rows, columns).t()
    packed = int4_layout.pack(codes, block)
    return packed, int4_layout.pack_scales(scales, zeros), dense


@settings(deadline=None, max_examples=60)
@given(
    blocks=st.integers(1, 5),
    groups=st.integers(1, 5),
    group=st.sampled_from([32, 64, 128, 256]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_dequantize_any_part_is_the_reference(weights, block, blocks, groups, group, seed, data):
    packed, pairs, dense = some_weight(blocks, groups, group, block, seed)
    first = data.draw(st.integers(0, blocks - 1))
    last = data.draw(st.integers(first + 1, blocks))
    found = {}
    for name, weight in weights.items():
        found[name] = torch.empty(groups * group, (last - first) * block).bfloat16()
        weight.dequantize(packed, pairs, first * block, found[name])
    part = dense[:, first * block : last * block]
    error = (found["ours"].float() - part).abs()

    assert bool((error <= part.abs() / 256 + 1e-5).all())
    assert torch.equal(found["ours"], found["narrow"])  # rounded by two ways


def test_dequantize_has_the_same_bits_with_any_number_of_threads(weights, block) -> None:
    packed, pairs, _ = some_weight(3, 3, 32, block, 1)

    def dequantized():
        found = torch.empty(96, 3 * block).bfloat16()
        weights["ours"].dequantize(packed, pairs, 0, found)
        return found

    assert_same_bits_by_any_threads(dequantized)


def test_dequantize_writes_nothing_but_the_weight(weights, block) -> None:
    packed, pairs, _ = some_weight(2, 2, 32, block, 2)
    count = 64 * 2 * block
    memory = torch.full((count + 64,), 7.0).bfloat16()
    for weight in weights.values():
        weight.dequantize(packed, pairs, 0, memory[32:-32].view(64, 2 * block))

    assert memory[:32].eq(7).all()
    assert memory[-32:].eq(7).all()


def test_dequantize_rounds_ties_to_even(weights, block) -> None:
    codes = torch.full((block, 32), 8).to(torch.uint8)
    codes[:, 1], codes[:, 2] = 9, 11
    ones = torch.ones(block, 1).bfloat16()
    packed, pairs = int4_layout.pack(codes, block), int4_layout.pack_scales(ones, 256 * ones)
    for weight in weights.values():
        found = torch.empty(32, block).bfloat16()
        weight.dequantize(packed, pairs, 0, found)

        assert found[:3].eq(torch.tensor([256.0, 256.0, 260.0])[:, None]).all()  # 256, 257, 259
