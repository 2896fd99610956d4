"""Compiled kernels against plain arithmetic, before they serve: a wrong one must never answer."""

from __future__ import annotations

import torch

WIDTH = 288  # no multiple of an unrolled step
_MAX_ERROR = 6e-3  # of the norm: rounding to bfloat16 takes 2e-3


def compare(what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ArithmeticError where *actual* is no rounding of *expected*, in float64."""
    error = float((actual.double() - expected).norm() / expected.norm())
    if not error < _MAX_ERROR:  # NaN is no number below it
        raise ArithmeticError(f"a compiled kernel ({what}) is wrong by {error:.2%}")
