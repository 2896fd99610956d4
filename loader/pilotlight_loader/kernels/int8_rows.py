"""x @ weight.T for rows of 16-bit integers and a weight of int8.

Words, after those of short_rows: codes, scales, product; rows of the weight. K is a multiple of 16.
For few rows one thread reads a row of the weight from its start to its end: see float_rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.float_rows import scale_of
from pilotlight_loader.kernels.short_rows import (
    INTS,
    PAIRS,
    TARGET,
    WORDS,
    ShortRows,
    entry,
    filler,
    multiply,
)
from pilotlight_loader.kernels.tiles import tiles

GROUP = 256  # columns: a lane adds 32 products of at most 128 * 32767; 512 fit into 32 bits
_LANES = 16  # of a register of pairs
_CHAINS = 4  # sums that are independent of each other, of few rows


def functions(rows: int) -> list[Function]:
    """`int8_short_rows_4` and its like, for up to so many rows: body and entry."""
    body = _rows(rows)
    return [body, entry(f"int8_short_rows_{rows}", body, None)]


def tile_functions() -> list[Function]:
    """`int8_tiles`, for any number of rows: filler, body and entry.

    One more word: rows of x with those that fill up the last tile, whatever memory holds there.
    """
    filling, body = filler(), _tiles()
    return [filling, body, entry("int8_tiles", body, filling)]


def _rows(rows: int) -> Function:
    write = Function(f"int8_short_rows_{rows}_body", TARGET)
    weight = _Weight(write)
    x = weight.x
    chains = max(1, _CHAINS // rows)
    step = chains * _LANES
    xs = [weight.numbers(str(m)) for m in range(rows)]
    with write.shared(weight.height) as row:
        line = weight.line(row)
        floats = write.zeros(write.floats, rows)
        with write.loop("0", x.groups) as group:
            first = write.product(group, x.group)
            last = x.end(first)
            count = write.let(f"sub i64 {last}, {first}")
            whole = write.sum(first, write.let(f"and i64 {count}, {-step}"))
            ints = [write.zeros(INTS, rows) for _ in range(chains)]
            with write.loop(first, whole, step) as column:
                write.prefetch(write.at(line, column, "i8"), step)
                for chain in range(chains):
                    at = write.sum(column, str(chain * _LANES))
                    weight.step([line], xs, at, [[cell] for cell in ints[chain]])
            with write.loop(whole, last, _LANES) as column:
                weight.step([line], xs, column, [[cell] for cell in ints[0]])
            for m in range(rows):
                total = ints[0][m]
                for chain in range(1, chains):
                    value = f"{write.get(INTS, total)}, {write.get(INTS, ints[chain][m])}"
                    write.put(INTS, write.let(f"add {INTS} {value}"), total)
                weight.gather(str(m), group, [total], [floats[m]])
        for m in range(rows):
            weight.store(str(m), row, floats[m])
    return write


def _tiles() -> Function:
    write = Function("int8_tiles_body", TARGET)
    weight = _Weight(write)
    x = weight.x
    with tiles(write, weight.height, write.word(WORDS + 4)) as (x_rows, rows):
        lines, xs = [weight.line(at) for at in rows], [weight.numbers(at) for at in x_rows]
        floats = [write.zeros(write.floats, len(rows)) for _ in x_rows]
        with write.loop("0", x.groups) as group:
            first = write.product(group, x.group)
            ints = [write.zeros(INTS, len(rows)) for _ in x_rows]
            with write.loop(first, x.end(first), _LANES) as column:
                weight.step(lines, xs, column, ints)
            for at, cells, totals in zip(x_rows, ints, floats, strict=True):
                weight.gather(at, group, cells, totals)
        for at, totals in zip(x_rows, floats, strict=True):
            for number, total in zip(rows, totals, strict=True):
                weight.store(at, number, total)
    return write


class _Weight:
    """As *write* reads its words."""

    def __init__(self, write: Function) -> None:
        self._write = write
        self.x = ShortRows(write)
        self._codes, self._scales, self._product = (write.word(WORDS + i, "ptr") for i in range(3))
        self.height = write.word(WORDS + 3)

    def line(self, row: str) -> str:
        return self._write.at(self._codes, self._write.product(row, self.x.width), "i8")

    def numbers(self, row: str) -> str:
        """Of x."""
        write = self._write
        return write.at(self.x.numbers, write.product(row, self.x.width), "i16")

    def load(self, line: str, column: str) -> str:
        codes = self._write.let(
            f"load <{_LANES} x i8>, ptr {self._write.at(line, column, 'i8')}, align 1"
        )
        return self._write.let(f"sext <{_LANES} x i8> {codes} to {PAIRS}")

    def step(
        self, lines: Sequence[str], xs: Sequence[str], column: str, sums: Sequence[Sequence[str]]
    ) -> None:
        """sums[m][n] += a register of x' row m times one of the weight's row n."""
        write = self._write
        codes = [self.load(line, column) for line in lines]
        for x, cells in zip(xs, sums, strict=True):
            numbers = write.let(f"load {PAIRS}, ptr {write.at(x, column, 'i16')}, align 2")
            for code, cell in zip(codes, cells, strict=True):
                multiply(write, code, numbers, cell)

    def gather(self, row: str, group: str, ints: Sequence[str], floats: Sequence[str]) -> None:
        """floats += what a group's sums are, of that row of x."""
        write = self._write
        factor = self.x.factor(row, group, self.x.scales)
        for cell, total in zip(ints, floats, strict=True):
            value = write.let(f"sitofp {INTS} {write.get(INTS, cell)} to {write.floats}")
            write.fma(value, factor, total)

    def store(self, x_row: str, row: str, floats: str) -> None:
        write = self._write
        scale = scale_of(write, write.at(self._scales, row, "i16"))
        value = write.let(f"fmul float {write.total([floats])}, {scale}")
        at = write.sum(write.product(self.height, x_row), row)
        write.store_one(value, write.at(self._product, at, "i16"))
