"""Compiled kernels against plain arithmetic, before they serve: a wrong one must never answer."""

from __future__ import annotations

import torch

from pilotlight_loader.quantize import int4_layout, trellis

WIDTH = 288  # no multiple of an unrolled step
_MAX_ERROR = 6e-3  # of the norm: rounding to bfloat16 takes 2e-3
_GROUP = 32  # columns with one scale
# Of a weight whose rows lie one by one: odd, no multiple of anything, and so many that threads
# share the product of one row of x.
_HEIGHT = 467


def some_rows(rows: int) -> torch.Tensor:
    """x: bfloat16 [rows, WIDTH]."""
    return some_numbers(0, rows, WIDTH)


def some_numbers(seed: int, *shape: int) -> torch.Tensor:
    """Random ones in bfloat16."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def some_weight() -> tuple[torch.Tensor, torch.Tensor]:
    """A plain weight, and a bias that weighs as much as a product."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(_HEIGHT, WIDTH, generator=generator)
    return weight.bfloat16(), torch.linspace(-30.0, 30.0, _HEIGHT).bfloat16()


def some_bytes() -> tuple[torch.Tensor, torch.Tensor]:
    """Every int8 code in a weight, and its scales."""
    codes = (torch.arange(_HEIGHT * WIDTH) * 37 % 256).to(torch.uint8).view(_HEIGHT, WIDTH)
    return codes.view(torch.int8), torch.linspace(0.5, 1.5, _HEIGHT).bfloat16()


def some_int4(height: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and zero points as pairs of int4_layout, and what they are in float64."""
    codes = (torch.arange(height * WIDTH) * 37 % 61 % 16).to(torch.uint8).view(height, WIDTH)
    groups = WIDTH // _GROUP
    scales = torch.linspace(-1.5, 1.5, height * groups).view(height, groups).bfloat16()
    zeros = scales.flip(0) * 3
    dense = (codes.double() - 8).view(height, groups, -1) * scales.double()[..., None]
    dense = (dense + zeros.double()[..., None]).view(height, WIDTH)
    return codes, int4_layout.pack_scales(scales, zeros), dense


def some_trellis(height: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, their scales [groups, N], and what they are in float64."""
    codes = (torch.arange(height * WIDTH) * 37 % 61 % 16).to(torch.uint8).view(height, WIDTH)
    groups = WIDTH // _GROUP
    scales = torch.linspace(-1.5, 1.5, height * groups).view(height, groups).bfloat16()
    numbers = trellis.numbers(codes).double().view(height, groups, -1)
    dense = (numbers * scales.double()[..., None]).view(height, WIDTH)
    return codes, scales.t().contiguous(), dense


def compare(what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ArithmeticError where *actual* is no rounding of *expected*, in float64."""
    error = float((actual.double() - expected).norm() / expected.norm())
    if not error < _MAX_ERROR:  # NaN is no number below it
        raise ArithmeticError(f"a compiled kernel ({what}) is wrong by {error:.2%}")
