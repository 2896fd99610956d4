"""Integers packed into int32 words, and the grid that they stand on."""

from __future__ import annotations

import torch

from pilotlight_loader.quantize.matrix import QuantizedMatrix

WORD_BITS = 32


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [R, C] -> uint8 [R, C * 32 / bits]: the lowest bits of a word come first.

    *bits* is 4 or 8. Words are little-endian, as safetensors and every machine that torch runs on.
    """
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    return torch.stack((octets & 0xF, octets >> 4), dim=-1).view(len(words), -1)


def affine(
    codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, bits: int
) -> QuantizedMatrix:
    """The matrix ``(code - zero) * scale``, its codes kept.

    *codes* uint8 [N, K] of 0 … 2**bits - 1; *zeros* integers and *scales* floats, [N, groups].
    """
    middle = 1 << (bits - 1)
    scales = scales.float().contiguous()
    # Exact in float32: 11 bits of an fp16 scale, 9 of the difference.
    shifts = (middle - zeros.float()) * scales
    moved = shifts if bool(shifts.any()) else None
    if bits == 4:
        return QuantizedMatrix(4, codes.contiguous(), scales, moved)
    return QuantizedMatrix(8, (codes ^ middle).contiguous().view(torch.int8), scales, moved)


def scattered(
    codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """``(code - zero) * scale`` in float32 where column k is of group *groups*[k], int [K]."""
    index = groups.long()
    return (codes.float() - zeros.float()[:, index]) * scales.float()[:, index]


def are_neighbours(groups: torch.Tensor, size: int) -> bool:
    """Whether *groups* [K] names one group of *size* columns after the other, all of them whole."""
    columns = len(groups)
    return columns % size == 0 and torch.equal(groups.long(), torch.arange(columns) // size)
