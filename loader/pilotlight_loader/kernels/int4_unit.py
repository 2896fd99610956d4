"""32 rows of a 4-bit weight, as the kernels that multiply 16-bit integers take them.

Words, after those of short_rows: codes, scales (both as they are stored), product; blocks of rows,
bytes between the scales of two groups, bytes between two rows of the product.

A block's columns have 16 bytes for each of its units. Two columns beside each other become four
registers of 16-bit pairs, of eight rows each.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.int4_dense import scales_of
from pilotlight_loader.kernels.short_rows import INTS, PAIRS, WORDS, ShortRows

ROWS = 32
REGISTERS = 4
UNIT_WORDS = WORDS + 6
_BYTES = 16  # of a column
_LOW, _HIGH = (
    ", ".join(f"i32 {n}" for i in range(first, first + 8) for n in (i, i + _BYTES))
    for first in (0, 8)
)


class Int4Units:
    """All of a weight's, as *write* reads their words: codes of equal steps, scales as pairs."""

    NAME = "int4"

    def __init__(self, write: Function, block: int) -> None:
        self._write, self._block = write, block
        self.x = ShortRows(write)
        self._codes, self._scales, self._product = (write.word(WORDS + i, "ptr") for i in range(3))
        blocks = write.word(WORDS + 3)
        self._scale_bytes, self._line_bytes = (write.word(WORDS + i) for i in (4, 5))
        self._column_bytes, self._of_block = block // 2, block // ROWS
        self.count = write.product(blocks, str(self._of_block))

    def begin(self, unit: str) -> str:
        """Where its first column is; registers() then is asked for all its columns in order."""
        write = self._write
        at_block, at_unit = self._place(unit)
        at = write.product(write.product(at_block, self.x.width), str(self._column_bytes))
        return write.at(self._codes, write.sum(at, write.product(at_unit, str(_BYTES))), "i8")

    def prefetch(self, codes: str, column: str, columns: int) -> None:
        """Of a step of so many columns."""
        write = self._write
        at = write.at(codes, write.product(column, str(self._column_bytes)), "i8")
        write.prefetch(at, columns * self._column_bytes)

    def registers(self, codes: str, column: str) -> list[str]:
        """The codes of this column and the next, 0 … 15."""
        write, kind = self._write, "<16 x i8>"
        line = write.at(codes, write.product(column, str(self._column_bytes)), "i8")
        left, right = (
            write.let(f"load {kind}, ptr {at}, align 1")
            for at in (line, write.at(line, str(self._column_bytes), "i8"))
        )
        low, high = [], []
        for mask in (_LOW, _HIGH):
            mixed = write.let(f"shufflevector {kind} {left}, {kind} {right}, <16 x i32> <{mask}>")
            both = write.let(f"zext {kind} {mixed} to {PAIRS}")
            low.append(write.let(f"and {PAIRS} {both}, splat (i16 15)"))
            high.append(write.let(f"lshr {PAIRS} {both}, splat (i16 4)"))
        return low + high

    def scales(self, unit: str, group: str) -> Sequence[tuple[str, ...]]:
        """Of each register: the scale, and zero - 8 * scale."""
        write = self._write
        line = write.at(self._scales, write.product(group, self._scale_bytes), "i8")
        return scales_of(write, write.at(line, self._first_row(unit), "i32"), self._rows())

    def gather(
        self,
        row: str,
        group: str,
        scales: Sequence[tuple[str, ...]],
        ints: Sequence[str],
        floats: Sequence[str],
    ) -> None:
        """floats += what a group's sums are, of that row of x, in numbers."""
        write = self._write
        factor, total = (self.x.factor(row, group, at) for at in (self.x.scales, self.x.sums))
        for (scale, shift), of_codes, cell in zip(scales, ints, floats, strict=True):
            value = write.let(f"sitofp {INTS} {write.get(INTS, of_codes)} to {write.floats}")
            # Both scales first: the sums by x' scale alone could pass the largest float.
            write.fma(value, write.let(f"fmul {write.floats} {factor}, {scale}"), cell)
            write.fma(total, shift, cell)

    def store(self, unit: str, row: str, values: Sequence[str]) -> None:
        """What is the product of these rows of the weight and a row of x."""
        write = self._write
        line = write.at(self._product, write.product(row, self._line_bytes), "i8")
        line = write.at(line, self._first_row(unit), "i16")
        for at, value in zip(self._rows(), values, strict=True):
            write.store(value, write.at(line, str(at), "i16"))

    def _rows(self) -> list[int]:
        """Where each register's rows begin, after the unit's first."""
        half = self._block // 2
        return [0, 8, half, half + 8]

    def _first_row(self, unit: str) -> str:
        write = self._write
        at_block, at_unit = self._place(unit)
        return write.sum(
            write.product(at_block, str(self._block)), write.product(at_unit, str(_BYTES))
        )

    def _place(self, unit: str) -> tuple[str, str]:
        """Its block, and which it is in there."""
        block = self._write.let(f"udiv i64 {unit}, {self._of_block}")
        return block, self._write.let(f"urem i64 {unit}, {self._of_block}")


def broadcast(write: Function, pointer: str) -> str:
    """Two 16-bit integers in every pair."""
    one = write.let(f"load i32, ptr {pointer}, align 2")
    some = write.let(f"insertelement {INTS} poison, i32 {one}, i64 0")
    mask = "<8 x i32> zeroinitializer"
    every = write.let(f"shufflevector {INTS} {some}, {INTS} poison, {mask}")
    return write.let(f"bitcast {INTS} {every} to {PAIRS}")
