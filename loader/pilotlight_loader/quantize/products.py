"""x @ weight.T for quantized weights on a CPU, by the kernel that is fastest for so many rows.

Compiled kernels where the process has them (kernels/chosen.py), else torch's operators. Measured
figures stand in docs/quantization.md. All x are [..., K] and contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from pilotlight_loader import wide_product
from pilotlight_loader.kernels import byte_product, chosen
from pilotlight_loader.kernels.int4_weight import Int4Weight
from pilotlight_loader.kernels.trellis_weight import TrellisWeight
from pilotlight_loader.quantize import int4_layout, trellis_layout, trellis_product
from pilotlight_loader.scratch import scratch

_CHUNK_ELEMENTS = 1 << 22  # dequantized at once: 8 MiB in bfloat16, which a last-level cache holds
# Up to so many rows torch's kernels, which decode a weight again for every four, are the faster.
INT8_KERNEL_ROWS = 4
INT4_KERNEL_ROWS = 32
_INT8_COMPILED_NUMBERS = (
    6144  # of x, in float32: with more, torch is faster; 24 KiB of a first cache
)
INT4_KERNEL_ROWS_BESIDE_COMPILED = 16  # where a compiled kernel can dequantize
TRELLIS_KERNEL_ROWS = 16  # where a CPU multiplies bfloat16: a guess, not measured
# torch's int8 kernel reads columns by sixteen, and beyond the weight's end where there are others:
# wrong products, or the end of the process (torch 2.13).
_INT8_KERNEL_COLUMNS = 16
# Private operators; by overload, which spares each call the choice of one.
_INT8_KERNEL: Any = torch.ops.aten._weight_int8pack_mm.default
_INT4_KERNEL: Any = torch.ops.aten._weight_int4pack_mm_for_cpu.default
_FLIPPED = int.from_bytes(b"\x88" * 8, "little", signed=True)  # the top bit of each 4-bit code


def int8_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*codes* int8 [N, K], *scales* [N] of x' dtype. Codes are exact in bfloat16, too."""
    if chosen.fits(x, codes, scales):
        short = chosen.int8_product()
        if short is not None:
            return short.rows(x, codes, scales)
        most = min(_INT8_COMPILED_NUMBERS, byte_product.MAX_ROWS * x.shape[-1])
        compiled = chosen.byte_product("int8") if x.numel() <= most else None
        if compiled is not None:
            return compiled.rows(x, codes, scales)
    if x.dim() != 2:
        return _as_before(x, int8_linear(_flat(x), codes, scales))
    if (
        x.shape[0] <= INT8_KERNEL_ROWS
        and x.dtype == scales.dtype
        and codes.shape[1] % _INT8_KERNEL_COLUMNS == 0
    ):
        product: torch.Tensor = _INT8_KERNEL(x, codes, scales)
        return product
    return _by_rows(x, codes, scales)


def int4_linear(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, block: int
) -> torch.Tensor:
    """*packed* uint8 [N, K / 2] in blocks of *block*, *pairs* [groups, N, 2] of x' dtype."""
    fits = chosen.fits(x, packed, pairs)
    short = chosen.int4_product(block) if fits else None
    if short is not None:
        return short.rows(x, packed, pairs)
    if x.dim() != 2:
        return _as_before(x, int4_linear(_flat(x), packed, pairs, block))
    rows = x.shape[0]
    takes = x.dtype == pairs.dtype and block == int4_layout.kernel_block()
    if fits and (not takes or rows > INT4_KERNEL_ROWS_BESIDE_COMPILED):
        compiled = chosen.int4_weight(block)
        if compiled is not None:
            return _by_parts(x, packed, pairs, block, compiled)
    if takes and rows <= INT4_KERNEL_ROWS:
        product: torch.Tensor = _INT4_KERNEL(x, packed, x.shape[1] // pairs.shape[0], pairs)
        return product
    return _by_tiles(x, packed, pairs, block)


def trellis_linear(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*packed* uint8 [N, K / 2] of trellis_layout.py, *scales* [groups, N] of x' dtype."""
    if chosen.fits(x, packed, scales):
        few = x.numel() <= TRELLIS_KERNEL_ROWS * x.shape[-1]
        weight = None if few else chosen.trellis_weight()
        if weight is not None:
            product = _by_parts(_flat(x), packed, scales, trellis_layout.BLOCK, weight)
            return _as_before(x, product)
        compiled = chosen.trellis_product()
        if compiled is not None:
            return compiled.rows(x, packed, scales)
    return _as_before(x, trellis_product.linear(_flat(x), packed, scales))


def fp8_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*codes* e4m3 [N, K], *scales* [N]. Codes are exact in bfloat16, too."""
    if x.dim() != 2:
        return _as_before(x, fp8_linear(_flat(x), codes, scales))
    compiled = chosen.byte_product("fp8") if chosen.fits(x, codes, scales) else None
    if compiled is None:
        return _by_rows(x, codes, scales)
    if x.shape[0] <= byte_product.MAX_ROWS:
        return compiled.rows(x, codes, scales)
    return _by_rows(x, codes, scales, compiled.numbers)


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _as_before(x: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    return product.view(*x.shape[:-1], product.shape[-1])


def _copy(codes: torch.Tensor, numbers: torch.Tensor) -> None:
    numbers.copy_(codes)


def _by_rows(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    convert: Callable[[torch.Tensor, torch.Tensor], None] = _copy,
) -> torch.Tensor:
    """Rows of the weight at a time, as numbers of x' dtype; their scale is the product's.

    But for float16, whose largest number the sums of codes would pass.
    """
    rows, columns = codes.shape
    step = max(1, _CHUNK_ELEMENTS // columns)
    if rows <= step:
        return _scaled_product(x, codes, scales, convert)
    product = torch.empty(x.shape[0], rows, dtype=x.dtype, device="cpu")
    for start in range(0, rows, step):
        span = slice(start, start + step)
        product[:, span] = _scaled_product(x, codes[span], scales[span], convert)
    return product


def _scaled_product(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    convert: Callable[[torch.Tensor, torch.Tensor], None],
) -> torch.Tensor:
    weight = scratch(codes.shape, x.dtype)
    convert(codes, weight)
    if x.dtype == torch.float16:
        weight.mul_(scales[:, None])
        if wide_product.takes(x, weight):
            return wide_product.linear(x, weight)
        return functional.linear(x, weight)
    if wide_product.takes(x, weight):
        return wide_product.linear(x, weight).mul_(scales)
    return functional.linear(x, weight) * scales


def _by_parts(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    block: int,
    compiled: Int4Weight | TrellisWeight,
) -> torch.Tensor:
    """Blocks of rows at a time, dequantized to [K, rows] in one pass."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    step = max(1, _CHUNK_ELEMENTS // (columns * block)) * block
    product = torch.empty(x.shape[0], rows, dtype=x.dtype, device="cpu")
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        weight = scratch((columns, span.stop - start), x.dtype)
        compiled.dequantize(packed, scales, start, weight)
        wide_product.matmul(x, weight, product[:, span])
    return product


def _by_tiles(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, block: int
) -> torch.Tensor:
    """Blocks of rows at a time, dequantized to [K + groups, rows], which needs no transposition.

    Zero points are the last rows, times the sums of x: adding them to the weight would be one more
    pass over it, and a product of their own one more rounding.
    """
    rows, columns = packed.shape[0], packed.shape[1] * 2
    groups, half = pairs.shape[0], block // 2
    tiles = packed.view(rows // block, columns, half)
    scales = pairs[:, None, :, 0] / 16  # contiguous, as the pairs are not: 4 times as fast below
    zeros = pairs[..., 1]
    x = torch.cat((x, x.view(x.shape[0], groups, -1).sum(-1)), 1)
    step = max(1, _CHUNK_ELEMENTS // ((columns + groups) * block))
    product = torch.empty(x.shape[0], rows, dtype=x.dtype, device="cpu")
    for start in range(0, len(tiles), step):
        tile = tiles[start : start + step]
        weight = scratch((columns + groups, len(tile) * block), x.dtype)
        codes = weight[:columns].view(columns, len(tile), 2, half)
        # Offset binary to two's complement: at the top of a byte, a code is 16 times its value.
        high = scratch(tile.shape, torch.uint8).view(torch.int8)
        low = scratch(tile.shape, torch.int8)
        torch.bitwise_xor(tile.view(torch.int64), _FLIPPED, out=high.view(torch.int64))
        torch.bitwise_left_shift(high, 4, out=low)
        codes[:, :, 0] = low.transpose(0, 1)
        codes[:, :, 1] = high.bitwise_and_(-16).transpose(0, 1)
        span = slice(start * block, (start + len(tile)) * block)
        weight[:columns].view(groups, columns // groups, -1).mul_(scales[..., span])
        weight[columns:] = zeros[:, span]
        wide_product.matmul(x, weight, product[:, span])
    return product
