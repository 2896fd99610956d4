"""Weights in float8_e4m3fn and the shapes that their scales come in."""

from __future__ import annotations

import torch

from pilotlight_loader.quantize.formats.source_tensors import FLOATS, SourceTensors
from pilotlight_loader.quantize.matrix import Fp8Matrix

CODES = ("F8_E4M3",)
SCALES = (*FLOATS, "F8_E8M0")  # the last are powers of two, one byte each


def block_grid(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """How many scales an [N, K] weight has if each is for a block; those at the ends are cut."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def row_scaled(codes: str, scales: str, tensors: SourceTensors) -> Fp8Matrix:
    """The weight in *codes*, whose *scales* are one, or one for each row: kept as they are."""
    tensors.read_finite(codes)
    values = tensors.read(codes)
    per_row = tensors.read_finite(scales).reshape(-1, 1).expand(len(values), 1)
    return Fp8Matrix(values, per_row.contiguous())


def block_scaled(
    codes: str, scales: str, block: tuple[int, int], tensors: SourceTensors
) -> torch.Tensor:
    """The weight in float32: no grid of ours has scales by block, and one rounding is enough."""
    values, factors = tensors.read_finite(codes), tensors.read_finite(scales)
    rows, columns = values.shape
    for index, row in enumerate(factors):  # a band of rows at a time: no second matrix of scales
        band = values[index * block[0] : (index + 1) * block[0]]
        band *= row.repeat_interleave(block[1])[:columns]
    return values.view(rows, columns)
