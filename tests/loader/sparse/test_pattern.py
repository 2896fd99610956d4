from __future__ import annotations

from itertools import combinations

import pytest
import torch

from pilotlight_loader.sparse import pattern
from pilotlight_loader.sparse.pattern import compress, expand, is_compressible


def sparse(rows, columns, dtype=torch.bfloat16, most=2):
    """Random weights, in each group of four *most* that are not zero, somewhere."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator).view(rows, -1, 4)
    order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
    return (weight * (order < most)).view(rows, columns).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 8), (3, 24), (64, 4096), (700, 1024)])
def test_expand_is_the_inverse_of_compress(shape, most, dtype):
    weight = sparse(*shape, dtype, most)

    values, indices = compress(weight)

    assert torch.equal(expand(values, indices), weight)
    assert (values.shape, indices.shape) == ((shape[0], shape[1] // 2), (shape[0], shape[1] // 8))
    assert (values.nbytes + indices.nbytes) / weight.nbytes == 0.5625


def test_compress_keeps_every_pair_of_positions():
    groups = torch.zeros(8, 4)
    for row, pair in zip(groups, combinations(range(4), 2), strict=False):
        row[list(pair)] = torch.tensor([1.0, 2.0])
    weight = groups.view(1, -1).bfloat16()

    assert torch.equal(expand(*compress(weight)), weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-40])
def test_compress_keeps_values_that_are_no_numbers_to_multiply_with(value):
    weight = torch.zeros(1, 8)
    weight[0, 1], weight[0, 3], weight[0, 6] = value, 1.0, value
    weight = weight.bfloat16()

    assert torch.equal(expand(*compress(weight)).view(torch.int16), weight.view(torch.int16))


def test_compress_takes_negative_zero_for_zero():
    weight = torch.tensor([[-0.0, 1.0, -0.0, 2.0, -0.0, -0.0, -0.0, -0.0]]).bfloat16()

    assert torch.equal(expand(*compress(weight)), weight)  # -0.0 == 0.0


@pytest.mark.parametrize(
    "weight",
    [
        sparse(8, 64, most=3),
        torch.full((8, 64), float("nan")).bfloat16(),
        sparse(8, 64).float(),
        sparse(8, 60),
        sparse(8, 64)[0],
        sparse(8, 64)[:0],
    ],
    ids=["three of four", "NaN", "float32", "columns", "vector", "empty"],
)
def test_compress_refuses_what_has_not_the_pattern(weight):
    assert not is_compressible(weight)
    with pytest.raises(ValueError, match="is not 2:4 sparse"):
        compress(weight)


def test_pattern_is_looked_for_in_every_band(monkeypatch):
    monkeypatch.setattr(pattern, "_BAND_ELEMENTS", 128)
    weight = sparse(9, 64)
    assert is_compressible(weight)
    assert torch.equal(expand(*compress(weight)), weight)

    weight[8, 60:] = 1.0

    assert not is_compressible(weight)


def test_compress_takes_weights_that_are_not_contiguous():
    weight = sparse(16, 64)
    strided = torch.cat((weight, weight), 1)[:, :64]
    assert not strided.is_contiguous()

    assert torch.equal(expand(*compress(strided)), weight)


def test_expand_fills_what_it_is_given():
    weight = sparse(16, 64)
    out = torch.full_like(weight, 7.0)

    assert expand(*compress(weight), out).data_ptr() == out.data_ptr()
    assert torch.equal(out, weight)


def test_expand_of_any_indices_stays_inside():
    values = torch.ones(2, 16).bfloat16()

    for octet in range(256):
        made = expand(values, torch.full((2, 4), octet, dtype=torch.uint8))
        assert made.shape == (2, 32)
        assert int((made != 0).view(2, -1, 4).sum(-1).max()) <= 2
