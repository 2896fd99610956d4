"""x @ weight.T for many rows and a weight of 4 bits: its codes are unpacked once for all of them.

Words, after those of int4_unit: floats (of each thread [rows, 32], to be filled), and rows of x
with those that fill up the last tile, whatever memory holds there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_loader.kernels import tiles
from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.int4_unit import (
    REGISTERS,
    ROWS,
    UNIT_WORDS,
    Int4Units,
    broadcast,
)
from pilotlight_loader.kernels.short_rows import (
    INTS,
    PAIRS,
    TARGET,
    entry,
    filler,
    multiply,
)

_REGISTERS = 2  # of the weight, with tiles.ROWS of x: eight sums
_REGISTER_BYTES = 32


def functions(block: int, kind: type[Int4Units]) -> list[Function]:
    """`int4_tiles_32` and its like: filler, body and entry."""
    name = f"{kind.NAME}_tiles_{block}"
    filling, body = filler(), _Tiles(f"{name}_body", block, kind).body
    return [filling, body, entry(name, body, filling)]


class _Tiles:
    def __init__(self, name: str, block: int, kind: type[Int4Units]) -> None:
        self.body = write = Function(name, TARGET)
        self._units = units = kind(write, block)
        self._x = x = units.x
        self._rows = write.word(UNIT_WORDS + 1)
        self._pairs = write.let(f"udiv i64 {x.group}, 2")
        # A group's codes as pairs, of each half of the registers: 8 KiB for 128 columns.
        self._half_bytes = write.product(self._pairs, str(_REGISTERS * _REGISTER_BYTES))
        size = write.product(self._half_bytes, "2")
        self._unpacked = write.let(f"alloca i8, i64 {size}, align {_REGISTER_BYTES}")
        thread = write.let("call i32 @omp_get_thread_num()")
        thread = write.let(f"zext i32 {thread} to i64")
        count = write.product(self._rows, str(ROWS))
        floats = write.word(UNIT_WORDS, "ptr")
        self._floats = write.at(floats, write.product(thread, count), "float")
        with write.shared(units.count) as unit:
            with write.loop("0", count, write.target.lanes) as i:
                at = write.at(self._floats, i, "float")
                write.do(f"store {write.floats} zeroinitializer, ptr {at}, align 4")
            codes = units.begin(unit)
            with write.loop("0", x.groups) as group:
                first = write.product(group, x.group)
                self._unpack(codes, first)
                scales = units.scales(unit, group)
                with write.loop("0", self._rows, tiles.ROWS) as row:
                    for half in range(2):
                        self._multiply(row, group, first, scales, half)
            with write.loop("0", x.rows) as row:
                units.store(unit, row, [self._load(at) for at in self._places(row)])

    def _unpack(self, codes: str, first: str) -> None:
        write = self.body
        with write.loop("0", self._pairs) as pair:
            column = write.sum(first, write.product(pair, "2"))
            self._units.prefetch(codes, column, 2)
            for at, register in enumerate(self._units.registers(codes, column)):
                half, place = divmod(at, _REGISTERS)
                address = self._register(half, pair, place)
                write.do(f"store {PAIRS} {register}, ptr {address}, align {_REGISTER_BYTES}")

    def _register(self, half: int, pair: str, place: int) -> str:
        write = self.body
        plane = write.at(self._unpacked, write.product(self._half_bytes, str(half)), "i8")
        line = write.at(plane, write.product(pair, str(_REGISTERS * _REGISTER_BYTES)), "i8")
        return write.at(line, str(place * _REGISTER_BYTES), "i8")

    def _multiply(
        self,
        first_row: str,
        group: str,
        first: str,
        scales: Sequence[tuple[str, ...]],
        half: int,
    ) -> None:
        """A group's sums of a tile, added to the floats."""
        write, x = self.body, self._x
        rows = [write.sum(first_row, str(row)) for row in range(tiles.ROWS)]
        lines = [
            write.at(x.numbers, write.sum(write.product(row, x.width), first), "i16")
            for row in rows
        ]
        ints = [write.zeros(INTS, _REGISTERS) for _ in rows]
        with write.loop("0", self._pairs) as pair:
            registers = [
                write.let(
                    f"load {PAIRS}, ptr {self._register(half, pair, place)}, "
                    f"align {_REGISTER_BYTES}"
                )
                for place in range(_REGISTERS)
            ]
            for line, cells in zip(lines, ints, strict=True):
                number = broadcast(write, write.at(line, pair, "i32"))
                for register, cell in zip(registers, cells, strict=True):
                    multiply(write, register, number, cell)
        mine = slice(half * _REGISTERS, (half + 1) * _REGISTERS)
        for row, cells in zip(rows, ints, strict=True):
            places = self._places(row)[mine]
            floats = [write.cell(write.floats, self._load(place)) for place in places]
            self._units.gather(row, group, scales[mine], cells, floats)
            for cell, place in zip(floats, places, strict=True):
                value = write.get(write.floats, cell)
                write.do(f"store {write.floats} {value}, ptr {place}, align 4")

    def _places(self, row: str) -> list[str]:
        """Of a row's floats, by registers."""
        write = self.body
        line = write.at(self._floats, write.product(row, str(ROWS)), "float")
        return [write.at(line, str(at * write.target.lanes), "float") for at in range(REGISTERS)]

    def _load(self, place: str) -> str:
        return self.body.let(f"load {self.body.floats}, ptr {place}, align 4")
