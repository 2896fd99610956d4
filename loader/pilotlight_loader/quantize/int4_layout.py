"""The bytes of a 4-bit weight as torch's CPU kernel wants them, and back; both by plain torch.

Blocks of rows one after the other, in each the columns one after the other: byte d of a column has
row d of the block in its low half and row d + block / 2 in its high half. With AVX-512 a block has
64 rows, with AVX2 32. torch packs in this way itself, which kernel_block() checks; a file packed
for another block is still read, by dequantizing.
"""

from __future__ import annotations

import functools
import logging

import torch

logger = logging.getLogger(__name__)

DEFAULT_BLOCK = 64
BLOCKS = (64, 32)
_PROBE = (128, 64)


def pack(codes: torch.Tensor, block: int) -> torch.Tensor:
    """uint8 [N, K] of 0 … 15 as uint8 [N, K / 2]; *block* divides N."""
    rows, columns = codes.shape
    tiles = codes.view(rows // block, 2, block // 2, columns)
    packed = tiles[:, 0] | (tiles[:, 1] << 4)
    return packed.transpose(1, 2).contiguous().view(rows, columns // 2)


def unpack(packed: torch.Tensor, block: int) -> torch.Tensor:
    """The inverse of pack()."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    tiles = packed.view(rows // block, columns, block // 2).transpose(1, 2)
    return torch.stack((tiles & 15, tiles >> 4), 1).reshape(rows, columns)


def pack_scales(scales: torch.Tensor, zeros: torch.Tensor | None) -> torch.Tensor:
    """[N, groups] as the kernel's [groups, N, 2] of scale and zero."""
    pair = torch.stack((scales, torch.zeros_like(scales) if zeros is None else zeros), -1)
    return pair.transpose(0, 1).contiguous()


@functools.cache
def kernel_block() -> int | None:
    """Rows of a block of this process's kernel; None where there is none, or it packs otherwise."""
    rows, columns = _PROBE
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (rows, columns), generator=generator, device="cpu")
    try:
        theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
        for block in BLOCKS:
            if torch.equal(theirs.view(torch.uint8), pack(codes.to(torch.uint8), block)):
                _check_product(codes, theirs)
                return block
        raise NotImplementedError("torch packs 4-bit weights in an unknown way")
    except Exception as error:  # a private operator: whatever may be missing or different
        logger.info("int4_kernel_unsupported torch=%s reason=%r", torch.__version__, error)
        return None


def _check_product(codes: torch.Tensor, packed: torch.Tensor) -> None:
    """Raises where the kernel's arithmetic is not (code - 8) * scale + zero."""
    rows, columns = codes.shape
    group = 32
    scales = torch.arange(1, rows * columns // group + 1, device="cpu").view(rows, -1) / 64
    zeros = -scales.flip(0) / 4
    expected = (codes.view(rows, -1, group) - 8) * scales[..., None] + zeros[..., None]
    x = torch.eye(columns, device="cpu")
    actual = torch.ops.aten._weight_int4pack_mm_for_cpu(
        x, packed, group, pack_scales(scales, zeros)
    )
    if not torch.allclose(actual, expected.view(rows, columns).t(), rtol=1e-5, atol=1e-5):
        raise NotImplementedError("the 4-bit kernel computes something else")
