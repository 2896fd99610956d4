"""The scale and zero of each group of weights, with the least squared error.

A group's scale need not reach its largest weight: for 4 bits a smaller one often has the smaller
error (the clipping search of AWQ, Lin et al. 2023, arXiv:2306.00978, on the weights alone).
"""

from __future__ import annotations

import torch

from pilotlight_loader.quantize.matrix import FP8_MAX

# Of the scale that reaches every weight. A finer grid gained less than 0.1 % of the error.
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_LOW, _HIGH = -8.0, 7.0  # signed codes of 4 bits
_INT8_MAX = 127.0


def int8_scale(block: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales [..., 1] of float32 groups [..., G], as *dtype* can have them; every weight fits."""
    return usable(block.abs().amax(-1, keepdim=True) / _INT8_MAX, dtype)


def int8_codes(block: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest of -127 … 127, as floats."""
    return (block / scale).round_().clamp_(-_INT8_MAX, _INT8_MAX)


def fp8_scale(block: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As int8_scale(), for e4m3."""
    return usable(block.abs().amax(-1, keepdim=True) / FP8_MAX, dtype)


def fp8_codes(block: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest of float8_e4m3fn.

    A scale that was rounded down lets a quotient pass the largest code, which would be NaN.
    """
    return (block / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def int4_grid(
    block: torch.Tensor, dtype: torch.dtype, *, asymmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scale, zero, squared error), each [..., 1], of float32 groups [..., G].

    Scales may be negative: so the weight furthest from zero gets -8, of which there is no positive.
    """
    if asymmetric:
        low, high = block.amin(-1, keepdim=True), block.amax(-1, keepdim=True)
        full, middle = (high - low) / (_HIGH - _LOW), (high + low) / 2
        # The codes' own middle is -0.5. A group of equal weights has no span, and needs no scale.
        half = torch.where(full == 0, 0.0, 0.5)
    else:
        furthest = block.abs().argmax(-1, keepdim=True)
        full = block.gather(-1, furthest) / _LOW
        middle = half = torch.zeros_like(full)
    best_scale, best_zero = torch.ones_like(full), torch.zeros_like(full)
    least = torch.full_like(full, torch.inf)
    for shrink in _SHRINK:
        scale = usable(full * shrink, dtype)
        zero = (middle + half * scale).to(dtype).float()
        error = int4_codes(block, scale, zero).mul_(scale).add_(zero).sub_(block)
        squared = error.square_().sum(-1, keepdim=True)
        better = squared < least
        least = torch.where(better, squared, least)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero, least


def int4_codes(block: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """The nearest of -8 … 7, as floats."""
    return ((block - zero) / scale).round_().clamp_(_LOW, _HIGH)


def usable(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """*scale* in float32 as *dtype* rounds it; 1 where that is 0 or infinite.

    A group of zeros then has codes 0 and is exactly zero again.
    """
    rounded = scale.to(dtype).float()
    return torch.where(torch.isfinite(rounded) & (rounded != 0), rounded, 1.0)
