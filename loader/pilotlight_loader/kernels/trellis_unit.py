"""32 rows of a trellis' codes (quantize/trellis.py) as 16-bit integers; see int4_unit.

A register has two columns, as trellis_layout.py stores them. A table of 16 values is looked up by
all its bytes in one instruction.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.int4_unit import Int4Units
from pilotlight_loader.kernels.short_rows import PAIRS
from pilotlight_loader.quantize.trellis import TABLES

BYTES = "<32 x i8>"
PAIR_BYTES = 32  # of two columns
OFFSET = 128  # numbers become bytes without a sign, which take fewer instructions to widen
_TABLES = tuple(
    f"<{', '.join(f'i8 {value}' for value in (*table, *table))}>"
    for table in (tuple(value + OFFSET for value in TABLES[0]), *TABLES[1:])
)
# Bytes with zeros between them, as AVX2's registers come apart: the first eight of each half, and
# the last.
_WIDENED = tuple(
    ", ".join(
        f"i32 {n}" for half in (0, 16) for i in range(first, first + 8) for n in (half + i, 32)
    )
    for first in (0, 8)
)


class TrellisNumbers:
    """What the codes of 32 rows mean, column by column from a row's first on."""

    def __init__(self, write: Function) -> None:
        self._write = write
        self._before = [write.cell(BYTES, "zeroinitializer") for _ in range(2)]  # code 0

    def next(self, codes: str) -> list[str]:
        """Of the two columns at that address, plus OFFSET: four registers of eight rows' pairs."""
        write = self._write
        both = write.let(f"load {BYTES}, ptr {codes}, align 1")
        low = write.let(f"and {BYTES} {both}, splat (i8 15)")
        high = write.let(f"lshr {BYTES} {both}, splat (i8 4)")
        found = []
        for half, cell in zip((low, high), self._before, strict=True):
            numbers = self._sum(half, cell)
            found += [self._widened(numbers, mask) for mask in _WIDENED]
        return found

    def _sum(self, codes: str, cell: str) -> str:
        write = self._write
        before = write.get(BYTES, cell)
        write.put(BYTES, codes, cell)
        # The column before each: the second of the pair before, and the first of this.
        pairs, pairs_before = (
            write.let(f"bitcast {BYTES} {value} to {PAIRS}") for value in (codes, before)
        )
        second = write.let(f"lshr {PAIRS} {pairs_before}, splat (i16 8)")
        first = write.let(f"shl {PAIRS} {pairs}, splat (i16 8)")
        shifted = write.let(f"or {PAIRS} {first}, {second}")
        shifted = write.let(f"bitcast {PAIRS} {shifted} to {BYTES}")
        values = [
            write.call(BYTES, "llvm.x86.avx2.pshuf.b", BYTES, table, index)
            for table, index in zip(_TABLES, (codes, shifted, before), strict=True)
        ]
        total = values[0]
        for value in values[1:]:
            total = write.let(f"add {BYTES} {total}, {value}")
        return total

    def _widened(self, numbers: str, mask: str) -> str:
        write = self._write
        wide = write.let(
            f"shufflevector {BYTES} {numbers}, {BYTES} zeroinitializer, <32 x i32> <{mask}>"
        )
        return write.let(f"bitcast {BYTES} {wide} to {PAIRS}")


class TrellisUnits(Int4Units):
    """All of a weight's. Scales are single numbers."""

    NAME = "trellis"
    _numbers: TrellisNumbers

    def begin(self, unit: str) -> str:
        self._numbers = TrellisNumbers(self._write)
        return super().begin(unit)

    def registers(self, codes: str, column: str) -> list[str]:
        """What the codes of this column and the next mean, plus OFFSET."""
        write = self._write
        at = write.product(column, str(PAIR_BYTES // 2))
        return self._numbers.next(write.at(codes, at, "i8"))

    def scales(self, unit: str, group: str) -> list[tuple[str, str]]:
        """Of each register: the scale, and - OFFSET * scale."""
        write = self._write
        line = write.at(self._scales, write.product(group, self._scale_bytes), "i8")
        line = write.at(line, self._first_row(unit), "i16")
        return [factor_of(write, write.at(line, str(row), "i16")) for row in self._rows()]


def factor_of(write: Function, scales: str) -> tuple[str, str]:
    """The scales at that address, and what they make of OFFSET, negative."""
    scale = write.from_bfloats(scales)
    return scale, write.let(f"fmul {write.floats} {scale}, splat (float -{OFFSET}.0)")
