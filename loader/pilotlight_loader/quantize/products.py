"""x @ weight.T for quantized weights on a CPU, by the kernel that is fastest for so many rows.

Measured figures stand in docs/quantization.md. All x are [rows, K] and contiguous.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch.nn import functional

from pilotlight_loader.quantize import int4_layout
from pilotlight_loader.quantize.scratch import scratch

logger = logging.getLogger(__name__)

_CHUNK_ELEMENTS = 1 << 22  # dequantized at once: 8 MiB in bfloat16, which a last-level cache holds
# Above so many rows torch's kernels, which decode a weight again for every four, are the slower.
INT8_KERNEL_ROWS = 2
INT4_KERNEL_ROWS = 8
_PLANE = 128  # what one step of the high plane is worth
_MAX_INT = 127 * _PLANE  # 15 bits with the sign: bfloat16 has 9
_MAX_DEPTH = (1 << 31) // (127 * 127)  # columns whose products an int32 can sum up
_TINY = 1e-30


def int8_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*codes* int8 [N, K], *scales* [N] of x' dtype."""
    if x.shape[0] <= INT8_KERNEL_ROWS and x.dtype == scales.dtype:
        product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, codes, scales)
        return product
    if codes.shape[1] < _MAX_DEPTH and integers_are_exact():
        return _by_integers(x, codes, scales)
    return _by_rows(x, codes, scales)


def int4_linear(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, block: int
) -> torch.Tensor:
    """*packed* uint8 [N, K / 2] in blocks of *block*, *pairs* [groups, N, 2] of x' dtype."""
    if (
        x.shape[0] <= INT4_KERNEL_ROWS
        and x.dtype == pairs.dtype
        and block == int4_layout.kernel_block()
    ):
        group = x.shape[1] // pairs.shape[0]
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, pairs)
        return product
    return _by_tiles(x, packed, pairs, block)


def fp8_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*codes* e4m3 [N, K], *scales* [N]. Codes are exact in bfloat16, and scaled afterwards."""
    return _by_rows(x, codes, scales)


@functools.cache
def integers_are_exact() -> bool:
    """Whether torch multiplies int8 without saturating, as CPUs without VNNI may in 16 bits."""
    x = torch.full((2, 256), 127, dtype=torch.int8, device="cpu")
    x[1] = -127
    try:
        product = torch._int_mm(x, x.flip(0).t())
    except Exception as error:  # a private operator: whatever may be missing
        logger.info("int8_product_unsupported torch=%s reason=%r", torch.__version__, error)
        return False
    most = 127 * 127 * 256
    return product.tolist() == [[-most, most], [most, -most]]


def _by_integers(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Each row of x as 15-bit integers of a scale of its own, in two planes of int8.

    The sums are exact: a row's product is the same whatever rows stand beside it.
    """
    rows = x.shape[0]
    wide = x.float()
    furthest = wide.abs().amax(1, keepdim=True)
    whole = (wide * (_MAX_INT / furthest.clamp_min(_TINY))).round_()
    high = (whole * (1 / _PLANE)).round_()
    planes = torch.empty(2, *x.shape, dtype=torch.int8)
    planes[0] = high
    planes[1] = whole.sub_(high, alpha=_PLANE)
    sums = torch._int_mm(planes.view(2 * rows, -1), codes.t()).float()
    product = sums[rows:].add_(sums[:rows], alpha=_PLANE)
    # NaN and infinity are lost in the integers, and come back here.
    product.mul_(furthest * (1 / _MAX_INT)).mul_(scales)
    return product.to(x.dtype)


def _by_rows(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rows of the weight at a time, as numbers of x' dtype; their scale is the product's."""
    rows, columns = codes.shape
    step = max(1, _CHUNK_ELEMENTS // columns)
    if rows <= step:
        weight = scratch(codes.shape, x.dtype).copy_(codes)
        return functional.linear(x, weight) * scales
    product = torch.empty(x.shape[0], rows, dtype=x.dtype)
    for start in range(0, rows, step):
        part = codes[start : start + step]
        weight = scratch(part.shape, x.dtype).copy_(part)
        torch.mul(
            functional.linear(x, weight),
            scales[start : start + step],
            out=product[:, start : start + step],
        )
    return product


def _by_tiles(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, block: int
) -> torch.Tensor:
    """Blocks of rows at a time, dequantized to [K, rows], which needs no transposition."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    groups = pairs.shape[0]
    half = block // 2
    tiles = packed.view(rows // block, columns, half)
    step = max(1, _CHUNK_ELEMENTS // (columns * block))
    product = torch.empty(x.shape[0], rows, dtype=x.dtype)
    for start in range(0, len(tiles), step):
        tile = tiles[start : start + step]
        blocks = len(tile)
        # Offset binary to two's complement: shifted to the top of a byte, a code is 16 × its value.
        signed = torch.bitwise_xor(tile, 0x88).view(torch.int8)
        weight = scratch((columns, blocks, 2, half), x.dtype)
        weight[:, :, 0] = (signed << 4).transpose(0, 1)
        weight[:, :, 1] = (signed & -16).transpose(0, 1)
        weight = weight.view(columns, blocks * block)
        span = slice(start * block, (start + blocks) * block)
        grouped = weight.view(groups, columns // groups, -1)
        scale, zero = (pairs[:, None, span, part] for part in (0, 1))
        grouped.mul_(scale / 16)
        grouped.add_(zero)
        product[:, span] = x @ weight
    return product
