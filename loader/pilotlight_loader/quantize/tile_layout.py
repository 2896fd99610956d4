"""The bytes of a 4-bit weight as torch's CUDA kernel wants them, and back; both by plain torch.

Tiles of 8 rows one after the other, in each the columns by the group's inner tiles, 16 columns
each. An int32 has two tiles' share of one thread: row thread / 4, columns 2 (thread % 4) and the
next, and those 8, 16 and 24 further on; its low half are the even columns. So says torch's source
(ATen/native/cuda/int4mm.cu); has_kernel() asks torch itself, on the GPU, before it is believed.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from pilotlight_loader.quantize.trial_shape import trial_shape

logger = logging.getLogger(__name__)

BLOCK = 8  # rows of a tile; no CPU's kernel has blocks of 8
_AMPERE = (8, 0)
_TILE_COLUMNS = 16
_MOST_INNER_TILES = 8
_TRIED_ROWS = 17  # more than one tile of the kernel's product
_MOST_ERROR = 1e-2  # of the product's norm; bfloat16 alone makes 3e-3 of it
# Private operators, for CUDA only.
_CONVERT: Any = torch.ops.aten._convert_weight_to_int4pack.default
_KERNEL: Any = torch.ops.aten._weight_int4pack_mm.default


def pack(codes: torch.Tensor, group: int) -> torch.Tensor:
    """uint8 [N, K] of 0 … 15 as uint8 [N, K / 2]; 8 divides N and *group* K."""
    rows, columns = codes.shape
    pairs = _inner_tiles(group) // 2
    # tile, row, chunk of columns, pair, then columns by 16, 8, 2 and 1
    tiles = codes.view(rows // BLOCK, BLOCK, columns // (32 * pairs), pairs, 2, 2, 4, 2)
    packed = tiles[:, :, :, :, :, 0] | (tiles[:, :, :, :, :, 1] << 4)
    return packed.permute(0, 2, 1, 5, 3, 6, 4).contiguous().view(rows, columns // 2)


def unpack(packed: torch.Tensor, group: int) -> torch.Tensor:
    """The inverse of pack()."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    pairs = _inner_tiles(group) // 2
    tiles = packed.view(rows // BLOCK, columns // (32 * pairs), BLOCK, 4, pairs, 2, 2)
    tiles = tiles.permute(0, 2, 1, 4, 6, 3, 5)
    return torch.stack((tiles & 15, tiles >> 4), 5).reshape(rows, columns)


def linear(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """torch's product. Only where has_kernel(), and for bfloat16."""
    group = x.shape[1] // pairs.shape[0]
    product: torch.Tensor = _KERNEL(x.contiguous(), _as_tiles(packed, group), group, pairs)
    return product


def has_kernel(device: torch.device, shape: tuple[int, int], group: int) -> bool:
    """Whether linear() multiplies on *device* with what pack() makes of an [N, K] weight.

    Asked once for each trial_shape(), of a random weight. Its first time is for a rehearsal: it
    takes milliseconds.
    """
    return _has_kernel(device, trial_shape(shape), group)


@functools.cache
def _has_kernel(device: torch.device, shape: tuple[int, int], group: int) -> bool:
    try:
        if device.type != "cuda" or torch.version.cuda is None:
            raise NotImplementedError(f"{device} is none of NVIDIA's")
        if torch.cuda.get_device_capability(device) < _AMPERE:
            raise NotImplementedError("the kernel needs compute capability 8.0")
        check_kernel(device, shape, group)
    except torch.OutOfMemoryError:
        raise  # it says nothing about the kernel
    except Exception as error:  # private operators: whatever may be missing or different
        logger.warning(
            "int4_cuda_kernel_unsupported torch=%s shape=%s group=%d reason=%r",
            *(torch.__version__, list(shape), group, error),
        )
        return False
    return True


def check_kernel(device: torch.device, shape: tuple[int, int], group: int) -> None:
    """Raises where torch packs in another way, or does not compute (code - 8) * scale + zero."""
    rows, columns = shape
    groups = columns // group
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device)

    with torch.no_grad():
        codes = torch.randint(0, 16, shape, generator=generator, device=device, dtype=torch.uint8)
        packed = pack(codes, group)
        theirs = _CONVERT(codes[:, ::2] << 4 | codes[:, 1::2], _inner_tiles(group))
        if not torch.equal(theirs, _as_tiles(packed, group)):
            raise NotImplementedError("torch packs 4-bit weights in another way")
        x = noise(_TRIED_ROWS, columns).bfloat16()
        pairs = noise(groups, rows, 2).bfloat16()
        scales, zeros = pairs.float().transpose(0, 1)[..., None, :].unbind(-1)
        weight = (codes.view(rows, groups, group).float() - 8) * scales + zeros
        expected = x.float() @ weight.view(shape).t()
        error = float((linear(x, packed, pairs) - expected).norm() / expected.norm())
        if not error < _MOST_ERROR:
            raise NotImplementedError(f"the 4-bit kernel is off by {error:.2g}")


def _inner_tiles(group: int) -> int:
    """As many as the kernel takes, of those that divide every K that has such groups."""
    return min(_MOST_INNER_TILES, group // _TILE_COLUMNS)


def _as_tiles(packed: torch.Tensor, group: int) -> torch.Tensor:
    """As the kernel takes it: int32 [N / 8, K / 16 / inner tiles, 32, inner tiles / 2]."""
    inner = _inner_tiles(group)
    return packed.view(torch.int32).view(packed.shape[0] // BLOCK, -1, 32, inner // 2)
