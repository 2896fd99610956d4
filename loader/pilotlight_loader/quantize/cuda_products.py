"""x @ weight.T for quantized weights on a GPU: torch's kernel where it has one, else dequantized.

Written without a GPU: kernels are compared with the dequantized product before they are used.
torch's are not used for int8 and fp8: its `_weight_int8pack_mm` is one thread for each output in
float32 there, and `_scaled_mm` wants activations in 8 bits, which would round what the model's own
dtype does not. All but the kernels runs on a CPU, too, and has the same bits by any chunks.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch.nn import functional

from pilotlight_loader.quantize import int4_layout, tile_layout
from pilotlight_loader.quantize.trial_shape import trial_shape

logger = logging.getLogger(__name__)

# Dequantized at once: 128 MiB in bfloat16, one weight of a 7B model.
_CHUNK_ELEMENTS = 1 << 26
# The kernel decodes a weight again for every 16 rows. Not measured: four times what one row costs
# is about what it takes to write a weight in bfloat16 and read it again.
INT4_KERNEL_ROWS = 64
BYTE_KERNEL_ROWS = 16  # what it reads the weight once for

ByteLinear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def int4_linear(
    x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, block: int
) -> torch.Tensor:
    """*packed* uint8 [N, K / 2] in blocks of *block*, *pairs* [groups, N, 2] of scale and zero."""
    columns, rows = x.shape[1], packed.shape[0]
    if (
        block == tile_layout.BLOCK
        and x.shape[0] <= INT4_KERNEL_ROWS
        and x.is_cuda
        and x.dtype == pairs.dtype == torch.bfloat16
        and tile_layout.has_kernel(x.device, (rows, columns), columns // pairs.shape[0])
    ):
        return tile_layout.linear(x, packed, pairs)
    step = max(block, _CHUNK_ELEMENTS // columns // block * block)
    if rows <= step:
        return functional.linear(x, dequantized(packed, pairs, block, x.dtype))
    product = x.new_empty(x.shape[0], rows)
    for start in range(0, rows, step):
        span = slice(start, start + step)
        weight = dequantized(packed[span], pairs[:, span], block, x.dtype)
        product[:, span] = functional.linear(x, weight)
    return product


def dequantized(
    packed: torch.Tensor, pairs: torch.Tensor, block: int, dtype: torch.dtype
) -> torch.Tensor:
    """The [N, K] weight in *dtype*, rounded to it once."""
    rows, columns, groups = packed.shape[0], packed.shape[1] * 2, pairs.shape[0]
    if block == tile_layout.BLOCK:
        codes = tile_layout.unpack(packed, columns // groups)
    else:
        codes = int4_layout.unpack(packed, block)
    scales, zeros = pairs.to(dtype).transpose(0, 1)[..., None, :].unbind(-1)
    signed = codes.to(dtype).sub_(8).view(rows, groups, -1)
    return torch.addcmul(zeros, signed, scales, out=signed).view(rows, columns)


def byte_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*codes* int8 or e4m3 [N, K], *scales* [N]. Codes are exact in every dtype of x."""
    rows, columns = codes.shape
    if x.is_cuda and x.shape[0] <= BYTE_KERNEL_ROWS and x.dtype == scales.dtype == torch.bfloat16:
        kernel = byte_kernel_for(x.device, codes.dtype, (rows, columns))
        if kernel is not None:
            return kernel(x, codes, scales)
    step = max(1, _CHUNK_ELEMENTS // columns)
    product = x.new_empty(x.shape[0], rows)
    for start in range(0, rows, step):
        span = slice(start, start + step)
        weight = codes[span].to(x.dtype)
        if x.dtype == torch.float16:  # sums of codes would pass its largest number
            product[:, span] = functional.linear(x, weight * scales[span, None])
        else:
            product[:, span] = functional.linear(x, weight) * scales[span]
    return product


def byte_kernel_for(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int]
) -> ByteLinear | None:
    """Triton's kernel for codes of *dtype* [N, K], tried on *device*; None: it is not there.

    The first time for a trial_shape() is for a rehearsal: it is compiled then.
    """
    return _byte_kernel_for(device, dtype, trial_shape(shape))


@functools.cache
def _byte_kernel_for(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int]
) -> ByteLinear | None:
    try:
        # Where it is needed: CPU builds of torch come without Triton.
        from pilotlight_loader.quantize import byte_kernel  # noqa: PLC0415

        byte_kernel.check(device, dtype, shape)
    except torch.OutOfMemoryError:
        raise  # it says nothing about the kernel
    except Exception as error:  # Triton's, for a GPU without e4m3, or another version
        logger.warning(
            "byte_cuda_kernel_unsupported dtype=%s shape=%s reason=%r", dtype, list(shape), error
        )
        return None
    return byte_kernel.linear
