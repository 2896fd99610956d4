"""A quantized matrix as the two tensors that a CPU's or a GPU's layers multiply with, and back."""

from __future__ import annotations

import torch

from pilotlight_loader.quantize import int4_layout, tile_layout, trellis_layout
from pilotlight_loader.quantize.matrix import (
    Fp8Matrix,
    Matrix,
    QuantizedMatrix,
    Scheme,
    TrellisMatrix,
)
from pilotlight_loader.quantize.stored import Device, StoredMatrix


def plan(scheme: Scheme, shape: tuple[int, int], device: Device = "cpu") -> StoredMatrix:
    """How a weight of that scheme is stored for this CPU, or any, or for any GPU of NVIDIA's.

    Raises ValueError where it cannot be.
    """
    stored = StoredMatrix(scheme, shape, _block(scheme, shape[0], device))
    stored.check()
    return stored


def tensors(
    matrix: Matrix, stored: StoredMatrix, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, scales) as *stored* says, the scales in *dtype*.

    Raises ValueError for a matrix of another kind, shape or grouping, or whose scales *dtype*
    cannot hold.
    """
    if matrix.shape != stored.shape:
        raise ValueError(f"{list(matrix.shape)}, not {list(stored.shape)}")
    kind = stored.scheme.kind
    if isinstance(matrix, Fp8Matrix):
        if kind != "fp8":
            raise ValueError(f"fp8, not {kind}")
        return matrix.codes, _finite(matrix.scales.to(dtype)[:, 0].contiguous())
    if isinstance(matrix, TrellisMatrix):
        if kind != "trellis" or matrix.group != stored.scheme.group:
            raise ValueError(f"a trellis with groups of {matrix.group}, not {stored.scheme}")
        scales = matrix.scales.to(dtype).t().contiguous()
        return trellis_layout.pack(matrix.codes), _finite(scales)
    if kind != f"int{matrix.bits}":
        raise ValueError(f"{matrix.bits} bits, not {kind}")
    if matrix.bits == 8:
        if matrix.zeros is not None or matrix.scales.shape[1] != 1:
            raise ValueError("8 bits with groups or zero points")
        return matrix.codes.contiguous(), _finite(matrix.scales.to(dtype)[:, 0].contiguous())
    if matrix.group != stored.scheme.group:
        matrix = matrix.regrouped(stored.scheme.group)
    zeros = None if matrix.zeros is None else matrix.zeros.to(dtype)
    pairs = int4_layout.pack_scales(matrix.scales.to(dtype), zeros)
    if stored.block == tile_layout.BLOCK:
        return tile_layout.pack(matrix.codes, stored.scheme.group), _finite(pairs)
    return int4_layout.pack(matrix.codes, stored.block), _finite(pairs)


def matrix(stored: StoredMatrix, codes: torch.Tensor, scales: torch.Tensor) -> Matrix:
    """The inverse of tensors()."""
    if stored.scheme.kind == "fp8":
        return Fp8Matrix(codes, scales[:, None])
    if stored.scheme.kind == "int8":
        return QuantizedMatrix(8, codes, scales[:, None])
    by_row = scales.transpose(0, 1)
    if stored.scheme.kind == "trellis":
        return TrellisMatrix(trellis_layout.unpack(codes), by_row)
    if stored.block == tile_layout.BLOCK:
        unpacked = tile_layout.unpack(codes, stored.scheme.group)
    else:
        unpacked = int4_layout.unpack(codes, stored.block)
    return QuantizedMatrix(4, unpacked, by_row[..., 0], by_row[..., 1])


def _block(scheme: Scheme, rows: int, device: Device) -> int:
    if scheme.kind == "trellis":
        return trellis_layout.BLOCK
    if scheme.kind != "int4":
        return 0
    if device == "cuda":
        return tile_layout.BLOCK
    block = int4_layout.kernel_block() or int4_layout.DEFAULT_BLOCK
    return block if rows % block == 0 else int4_layout.DEFAULT_BLOCK


def _finite(scales: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(scales).all()):
        raise ValueError(f"a scale is too large for {scales.dtype}")
    return scales
