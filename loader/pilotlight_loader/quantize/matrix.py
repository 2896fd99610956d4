"""Quantized matrices as values: integer codes, their scales, and the arithmetic that joins them.

One arithmetic for all integers, that of torch's int4 kernels:
``w = (code - offset) * scale + zero``.
A zero point z of GPTQ or AWQ, ``(code - z) * scale``, is ``zero = (offset - z) * scale``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from pilotlight_loader.quantize import trellis

Kind = Literal["int8", "int4", "fp8"]  # what is asked for
Coding = Literal[Kind, "trellis"]  # what a weight is stored in: a CPU has int4 as a trellis
FP8_MAX = 448.0  # of e4m3 as torch.float8_e4m3fn has it; it has no infinity
INT4_OFFSET = 8  # the code that means zero without a zero point
_PART_ELEMENTS = 1 << 20  # dequantized at once: 4 MiB in float32


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one [N, K] weight is quantized; *group* columns of a row share a scale, 0: all."""

    kind: Coding
    group: int = 0

    def groups(self, columns: int) -> int:
        """Scales of a row. Raises ValueError where the group does not divide the columns."""
        if self.group == 0:
            return 1
        if columns % self.group:
            raise ValueError(f"groups of {self.group} do not divide {columns} columns")
        return columns // self.group


INT8 = Scheme("int8")
INT4 = Scheme("int4", 128)
TRELLIS = Scheme("trellis", 128)
FP8 = Scheme("fp8")


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """An [N, K] weight in 8 or 4 bits.

    *codes* [N, K]: int8 in -128 … 127 for 8 bits, uint8 in 0 … 15 (one per byte) for 4.
    *scales* [N, groups] and *zeros* (the same, or None for none) are floating point, finite.
    A group is K / groups neighbouring columns. Raises ValueError for anything else.
    """

    bits: Literal[8, 4]
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None

    def __post_init__(self) -> None:
        wanted = {8: torch.int8, 4: torch.uint8}[self.bits]
        if self.codes.dim() != 2 or self.codes.dtype != wanted or not self.codes.numel():
            raise ValueError(f"{self.codes.dtype} {list(self.codes.shape)} are no {wanted} codes")
        rows, columns = self.codes.shape
        for part in (self.scales, *(() if self.zeros is None else (self.zeros,))):
            if part.dim() != 2 or not part.is_floating_point() or part.shape != self.scales.shape:
                raise ValueError(f"{part.dtype} {list(part.shape)} are no scales or zeros")
            if not bool(torch.isfinite(part).all()):
                raise ValueError("a scale or zero point is NaN or infinite")
        groups = self.scales.shape[1]
        if self.scales.shape[0] != rows or not groups or columns % groups:
            raise ValueError(f"scales {list(self.scales.shape)} do not fit [{rows}, {columns}]")
        if self.bits == 4 and int(self.codes.max()) > 15:
            raise ValueError("a code of 4 bits is larger than 15")

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def group(self) -> int:
        """Columns that share a scale; K where the scale is the row's."""
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def offset(self) -> int:
        """The code whose value is the zero point."""
        return INT4_OFFSET if self.bits == 4 else 0

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight, from float32: the reference that kernels are tested against."""
        weight = self.codes.new_empty(self.shape, dtype=dtype)
        for part in _parts(self.shape):
            scales = self.scales[part].float()[:, :, None]
            numbers = self.codes[part].float().sub_(self.offset)
            grouped = numbers.view(len(scales), self.scales.shape[1], -1).mul_(scales)
            if self.zeros is not None:
                grouped += self.zeros[part].float()[:, :, None]
            weight[part] = numbers
        return weight

    def regrouped(self, group: int) -> QuantizedMatrix:
        """The same weight with smaller groups, scales repeated. Raises ValueError if it is not."""
        if self.group % group:
            raise ValueError(f"groups of {self.group} cannot be split into groups of {group}")
        times = self.group // group
        zeros = None if self.zeros is None else self.zeros.repeat_interleave(times, dim=1)
        scales = self.scales.repeat_interleave(times, dim=1)
        return QuantizedMatrix(self.bits, self.codes, scales, zeros)


@dataclass(frozen=True, slots=True, eq=False)
class Fp8Matrix:
    """An [N, K] weight as float8_e4m3fn *codes* and one finite scale per row, *scales* [N, 1]."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __post_init__(self) -> None:
        if self.codes.dim() != 2 or self.codes.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{self.codes.dtype} {list(self.codes.shape)} are no e4m3 codes")
        if not self.codes.numel() or self.scales.shape != (self.codes.shape[0], 1):
            raise ValueError(
                f"scales {list(self.scales.shape)} do not fit {list(self.codes.shape)}"
            )
        if not bool(torch.isfinite(self.scales).all()):
            raise ValueError("a scale is NaN or infinite")
        if bool(self.codes.view(torch.uint8).bitwise_and(0x7F).eq(0x7F).any()):
            raise ValueError("a code is NaN")

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        return self.codes.shape[0], self.codes.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight, from float32."""
        weight = self.codes.new_empty(self.shape, dtype=dtype)
        for part in _parts(self.shape):
            weight[part] = self.codes[part].float().mul_(self.scales[part].float())
        return weight


@dataclass(frozen=True, slots=True, eq=False)
class TrellisMatrix:
    """An [N, K] weight as uint8 *codes* in 0 … 15 of a trellis (trellis.py), and *scales*
    [N, groups], finite; a group is K / groups neighbouring columns."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __post_init__(self) -> None:
        if self.codes.dim() != 2 or self.codes.dtype != torch.uint8 or not self.codes.numel():
            raise ValueError(f"{self.codes.dtype} {list(self.codes.shape)} are no codes")
        rows, columns = self.codes.shape
        if self.scales.dim() != 2 or not self.scales.is_floating_point():
            raise ValueError(f"{self.scales.dtype} {list(self.scales.shape)} are no scales")
        groups = self.scales.shape[1]
        if self.scales.shape[0] != rows or not groups or columns % groups:
            raise ValueError(f"scales {list(self.scales.shape)} do not fit [{rows}, {columns}]")
        if not bool(torch.isfinite(self.scales).all()):
            raise ValueError("a scale is NaN or infinite")
        if int(self.codes.max()) > 15:
            raise ValueError("a code of 4 bits is larger than 15")

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight, from float32."""
        weight = self.codes.new_empty(self.shape, dtype=dtype)
        for part in _parts(self.shape):
            scales = self.scales[part].float()[:, :, None]
            numbers = trellis.numbers(self.codes[part]).float()
            weight[part] = numbers.view(len(scales), scales.shape[1], -1).mul_(scales).flatten(1)
        return weight


Matrix = QuantizedMatrix | Fp8Matrix | TrellisMatrix


def _parts(shape: tuple[int, int]) -> Iterator[slice]:
    """Rows at a time: of the whole in float32 there would be twice the weight's own bytes."""
    step = max(1, _PART_ELEMENTS // shape[1])
    return (slice(start, start + step) for start in range(0, shape[0], step))
