"""Rounding each weight to its nearest code."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pilotlight_loader.quantize import grids
from pilotlight_loader.quantize.matrix import (
    INT4_OFFSET,
    Fp8Matrix,
    Matrix,
    QuantizedMatrix,
    Scheme,
)
from pilotlight_loader.quantize.trellis_rounding import to_trellis

_BLOCK_ELEMENTS = 1 << 17  # rounded at once: 0.5 MiB in float32, which a core's cache holds
_SAMPLED = 8  # one row in so many decides whether there are zero points
_ASYMMETRIC_GAIN = 0.99  # of the squared error: below it zero points are worth having


class NearestRounding:
    """Each weight by itself; keeps nothing between calls."""

    def matrix(self, name: str, weight: torch.Tensor, scheme: Scheme) -> Matrix:
        """Raises ValueError, naming *name*, for NaN or infinite weights, or a wrong group."""
        check_weight(name, weight)
        groups = scheme.groups(weight.shape[1])
        if scheme.kind == "fp8":
            return _fp8(weight)
        if scheme.kind == "trellis":
            return to_trellis(weight, scheme, None)
        return _int8(weight, groups) if scheme.kind == "int8" else _int4(weight, groups)


def check_weight(name: str, weight: torch.Tensor) -> None:
    """Raises ValueError for what cannot be rounded: no matrix, no elements, NaN or infinite."""
    if weight.dim() != 2 or not weight.numel() or not weight.is_floating_point():
        raise ValueError(f"{name!r} is {weight.dtype} {list(weight.shape)}: nothing to quantize")
    for _, block in _blocks(weight, 1):
        if not bool(torch.isfinite(block).all()):
            raise ValueError(f"{name!r} has weights that are NaN or infinite")


def _blocks(weight: torch.Tensor, groups: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows at a time, in float32, [rows, groups, columns of a group]."""
    step = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, min(start + step, weight.shape[0]))
        yield rows, weight[rows].float().view(rows.stop - start, groups, -1)


def _fp8(weight: torch.Tensor) -> Fp8Matrix:
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(weight.shape[0], 1, dtype=weight.dtype)
    for rows, block in _blocks(weight, 1):
        scale = grids.fp8_scale(block, weight.dtype)
        codes[rows] = grids.fp8_codes(block, scale)[:, 0]
        scales[rows] = scale[:, 0].to(weight.dtype)
    return Fp8Matrix(codes, scales)


def _int8(weight: torch.Tensor, groups: int) -> QuantizedMatrix:
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], groups, dtype=weight.dtype)
    for rows, block in _blocks(weight, groups):
        scale = grids.int8_scale(block, weight.dtype)
        codes[rows] = grids.int8_codes(block, scale).flatten(1).to(torch.int8)
        scales[rows] = scale[..., 0].to(weight.dtype)
    return QuantizedMatrix(8, codes, scales)


def _int4(weight: torch.Tensor, groups: int) -> QuantizedMatrix:
    asymmetric = prefers_asymmetric(weight, groups)
    codes = torch.empty(weight.shape, dtype=torch.uint8)
    scales, zeros = (torch.empty(weight.shape[0], groups, dtype=weight.dtype) for _ in range(2))
    for rows, block in _blocks(weight, groups):
        scale, zero, _ = grids.int4_grid(block, weight.dtype, asymmetric=asymmetric)
        signed = grids.int4_codes(block, scale, zero).flatten(1)
        codes[rows] = signed.add_(INT4_OFFSET).to(torch.uint8)
        scales[rows] = scale[..., 0].to(weight.dtype)
        zeros[rows] = zero[..., 0].to(weight.dtype)
    return QuantizedMatrix(4, codes, scales, zeros if asymmetric else None)


def prefers_asymmetric(weight: torch.Tensor, groups: int) -> bool:
    """Whether zero points make the matrix' squared error smaller, by a percent; from a sample."""
    errors = {}
    for asymmetric in (False, True):
        errors[asymmetric] = sum(
            float(grids.int4_grid(block, weight.dtype, asymmetric=asymmetric)[2].sum())
            for _, block in _blocks(weight[::_SAMPLED], groups)
        )
    return errors[True] < _ASYMMETRIC_GAIN * errors[False]
