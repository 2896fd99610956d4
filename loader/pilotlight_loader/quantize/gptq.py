"""GPTQ: round column by column, and let the columns that follow make up for each error.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, 2022 (arXiv:2210.17323), with the scales of grids.py.
"""

from __future__ import annotations

import torch

from pilotlight_loader.quantize import grids
from pilotlight_loader.quantize.matrix import INT4_OFFSET, QuantizedMatrix
from pilotlight_loader.quantize.nearest import prefers_asymmetric

_DAMPING = (
    0.01  # of the mean of the diagonal, as in the paper; ten times as much if that is singular
)
_DAMPING_TRIES = 4


def gptq(weight: torch.Tensor, hessian: torch.Tensor, group: int) -> QuantizedMatrix:
    """*weight* [N, K], finite, in 4 bits, for inputs whose sum of x xᵀ is *hessian* [K, K].

    Raises ValueError for a Hessian that is not finite.
    """
    dtype = weight.dtype
    rows, columns = weight.shape
    asymmetric = prefers_asymmetric(weight, columns // group)
    inverse = _inverse_root(hessian)
    left = weight.float().clone()  # what is still to be rounded, errors made up for
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    scales, zeros = (torch.empty(rows, columns // group, dtype=dtype) for _ in range(2))
    for number, start in enumerate(range(0, columns, group)):
        span = slice(start, start + group)
        block, root = left[:, span], inverse[span, span]
        scale, zero, _ = grids.int4_grid(block, dtype, asymmetric=asymmetric)
        errors = torch.empty_like(block)
        for at in range(group):
            column = block[:, at : at + 1]
            signed = grids.int4_codes(column, scale, zero)
            codes[:, start + at] = (signed[:, 0] + INT4_OFFSET).to(torch.uint8)
            error = (column - signed * scale - zero) / root[at, at]
            block[:, at:] -= error * root[at, at:]
            errors[:, at] = error[:, 0]
        left[:, span.stop :] -= errors @ inverse[span, span.stop :]
        scales[:, number], zeros[:, number] = scale[:, 0].to(dtype), zero[:, 0].to(dtype)
    return QuantizedMatrix(4, codes, scales, zeros if asymmetric else None)


def _inverse_root(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse, damped until there is one."""
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the text that calibrates makes activations that are NaN or infinite")
    damped = hessian.float().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is always 0: any code will do
    damping = _DAMPING * float(diagonal.mean())
    for _ in range(_DAMPING_TRIES):
        diagonal += damping
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            root, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                result: torch.Tensor = root
                return result
        damping *= 10
    raise ValueError("the text that calibrates is too short for this weight")
