"""GPTQ: round column by column, and let the columns that follow make up for each error.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, 2022 (arXiv:2210.17323), with the scales of
grids.py. A trellis has a way of its own: trellis_rounding.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pilotlight_loader.quantize import grids
from pilotlight_loader.quantize.matrix import (
    INT4_OFFSET,
    Fp8Matrix,
    Kind,
    Matrix,
    QuantizedMatrix,
    Scheme,
)
from pilotlight_loader.quantize.nearest import prefers_asymmetric
from pilotlight_loader.quantize.trellis_rounding import to_trellis

_BLOCK = 128  # columns whose errors reach the rest in one product
_PART_ROWS = 1024  # in float32 at once: they need not each other; more gain a tenth of the time
_CODE_DTYPES: Mapping[Kind, torch.dtype] = {
    "int8": torch.int8,
    "int4": torch.uint8,
    "fp8": torch.float8_e4m3fn,
}


def gptq(weight: torch.Tensor, root: torch.Tensor, scheme: Scheme) -> Matrix:
    """*weight* [N, K], finite, as *scheme* says, for inputs x of which *root* [K, K] is
    inverse_root() of the sum of x xᵀ. Weights that read the same inputs share it.
    """
    kind, dtype = scheme.kind, weight.dtype
    if kind == "trellis":
        return to_trellis(weight, scheme, root)
    rows, columns = weight.shape
    groups = scheme.groups(columns)
    asymmetric = kind == "int4" and prefers_asymmetric(weight, groups)
    codes = torch.empty(rows, columns, dtype=_CODE_DTYPES[kind])
    scales, zeros = (torch.empty(rows, groups, dtype=dtype) for _ in range(2))
    for start in range(0, rows, _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        into = _Rounded(kind, asymmetric, codes[part], scales[part], zeros[part])
        _round(weight[part].to(torch.float32, copy=True), root, into)
    if kind == "fp8":
        return Fp8Matrix(codes, scales)
    if kind == "int8":
        return QuantizedMatrix(8, codes, scales)
    return QuantizedMatrix(4, codes, scales, zeros if asymmetric else None)


@dataclass(frozen=True, slots=True)
class _Rounded:
    """Where some rows go; *codes* [N, K], *scales* and *zeros* [N, groups]."""

    kind: Kind
    asymmetric: bool
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor


def _round(left: torch.Tensor, root: torch.Tensor, into: _Rounded) -> None:
    """*left* [N, K], float32, is what is still to be rounded, errors made up for."""
    kind, dtype = into.kind, into.scales.dtype
    columns = left.shape[1]
    group = columns // into.scales.shape[1]
    scale = zero = torch.empty(0)
    block = min(_BLOCK, group)
    for start in range(0, columns, block):
        span = slice(start, min(start + block, columns))
        if start % group == 0:
            scale, zero = _grid(kind, left[:, start : start + group], dtype, into.asymmetric)
            into.scales[:, start // group] = scale.to(dtype)
            into.zeros[:, start // group] = zero.to(dtype)
        # By column: each is one piece of memory then, not one number of each row.
        part, corner = left[:, span].t().contiguous(), root[span, span]
        codes, errors = torch.empty_like(part), torch.empty_like(part)
        for at, column in enumerate(part):
            codes[at] = _codes(kind, column, scale, zero)
            torch.div(column - codes[at] * scale - zero, corner[at, at], out=errors[at])
            part[at + 1 :].addr_(corner[at, at + 1 :], errors[at], alpha=-1)
        left[:, span.stop :].addmm_(errors.t(), root[span, span.stop :], alpha=-1)
        if kind == "int4":
            codes += INT4_OFFSET
        into.codes[:, span] = codes.t().to(into.codes.dtype)


def _grid(
    kind: Kind, block: torch.Tensor, dtype: torch.dtype, asymmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero [N] of one group [N, G]."""
    if kind == "int4":
        scale, zero, _ = grids.int4_grid(block, dtype, asymmetric=asymmetric)
        return scale[:, 0], zero[:, 0]
    scale = (grids.int8_scale if kind == "int8" else grids.fp8_scale)(block, dtype)[:, 0]
    return scale, torch.zeros_like(scale)


def _codes(
    kind: Kind, column: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """The nearest codes, signed, as floats."""
    if kind == "int4":
        return grids.int4_codes(column, scale, zero)
    if kind == "int8":
        return grids.int8_codes(column, scale)
    return grids.fp8_codes(column, scale).float()
