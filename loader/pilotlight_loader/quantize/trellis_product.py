"""x @ weight.T for a trellis' weight by plain torch, on any device: dequantized, some rows at once.

What compiled kernels (kernels/) do without, and are compared with.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from pilotlight_loader import wide_product
from pilotlight_loader.quantize import trellis, trellis_layout

_CHUNK_ELEMENTS = 1 << 20


def linear(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*x* [rows, K], *packed* uint8 [N, K / 2] of trellis_layout.py, *scales* [groups, N]."""
    rows, columns = packed.shape[0], x.shape[1]
    step = max(1, _CHUNK_ELEMENTS // (columns * trellis_layout.BLOCK)) * trellis_layout.BLOCK
    product = x.new_empty(x.shape[0], rows)
    for start in range(0, rows, step):
        span = slice(start, start + step)
        weight = dequantized(packed[span], scales[:, span], x.dtype)
        multiply = wide_product.linear if wide_product.takes(x, weight) else functional.linear
        product[:, span] = multiply(x, weight)
    return product


def dequantized(packed: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The [N, K] weight in *dtype*, rounded to it once."""
    rows, groups = packed.shape[0], scales.shape[0]
    numbers = trellis.numbers(trellis_layout.unpack(packed)).float().view(rows, groups, -1)
    return numbers.mul_(scales.float().t()[..., None]).to(dtype).view(rows, -1)
