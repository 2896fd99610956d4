"""GPTQ: round column by column, and let the columns that follow make up for each error.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, 2022 (arXiv:2210.17323), with the scales of grids.py.
"""

from __future__ import annotations

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

_BLOCK = 128  # columns whose errors reach the rest in one product
_DAMPING = (
    0.01  # of the mean of the diagonal, as in the paper; ten times as much if that is singular
)
_DAMPING_TRIES = 4


def gptq(weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme) -> Matrix:
    """*weight* [N, K], finite, as *scheme* says, for inputs whose sum of x xᵀ is *hessian* [K, K].

    Raises ValueError for a Hessian that is not finite.
    """
    kind, dtype = scheme.kind, weight.dtype
    rows, columns = weight.shape
    groups = scheme.groups(columns)
    group = columns // groups
    asymmetric = kind == "int4" and prefers_asymmetric(weight, groups)
    inverse = _inverse_root(hessian)
    left = weight.float().clone()  # what is still to be rounded, errors made up for
    codes = torch.empty(rows, columns)
    scales, zeros = (torch.empty(rows, groups, dtype=dtype) for _ in range(2))
    scale = zero = torch.empty(0)
    block = min(_BLOCK, group)
    for start in range(0, columns, block):
        span = slice(start, min(start + block, columns))
        if start % group == 0:
            scale, zero = _grid(kind, left[:, start : start + group], dtype, asymmetric)
            scales[:, start // group] = scale[:, 0].to(dtype)
            zeros[:, start // group] = zero[:, 0].to(dtype)
        part, root = left[:, span], inverse[span, span]
        errors = torch.empty_like(part)
        for at in range(part.shape[1]):
            column = part[:, at : at + 1]
            code = _codes(kind, column, scale, zero)
            codes[:, start + at] = code[:, 0]
            error = (column - code * scale - zero) / root[at, at]
            part[:, at:] -= error * root[at, at:]
            errors[:, at] = error[:, 0]
        left[:, span.stop :] -= errors @ inverse[span, span.stop :]
    if kind == "fp8":
        return Fp8Matrix(codes.to(torch.float8_e4m3fn), scales)
    if kind == "int8":
        return QuantizedMatrix(8, codes.to(torch.int8), scales)
    unsigned = codes.add_(INT4_OFFSET).to(torch.uint8)
    return QuantizedMatrix(4, unsigned, scales, zeros if asymmetric else None)


def _grid(
    kind: Kind, block: torch.Tensor, dtype: torch.dtype, asymmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero [N, 1] of one group [N, G]."""
    if kind == "int4":
        scale, zero, _ = grids.int4_grid(block, dtype, asymmetric=asymmetric)
        return scale, zero
    scale = (grids.int8_scale if kind == "int8" else grids.fp8_scale)(block, dtype)
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


def _inverse_root(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse, damped until there is one."""
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the text that calibrates makes activations that are NaN or infinite")
    damping = 0.0
    share = _DAMPING
    for _ in range(_DAMPING_TRIES):
        damped = hessian.float().clone()
        diagonal = damped.diagonal()
        diagonal[diagonal == 0] = 1.0  # an input that is always 0: any code will do
        damping += share * float(diagonal.mean())
        diagonal += damping
        factor, failed = torch.linalg.cholesky_ex(damped)
        del damped, diagonal  # of two such matrices beside the Hessian's one is enough
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            del factor
            root, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                result: torch.Tensor = root
                return result
        share *= 10
    raise ValueError("the text that calibrates is too short for this weight")
