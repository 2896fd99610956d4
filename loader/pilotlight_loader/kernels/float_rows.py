"""x @ weight.T for rows of bfloat16 in float32, and a weight of bfloat16, int8 or e4m3.

Words: x' address, x in float32 (to be filled), weight, scales, product; N, K, how many rows x has,
and with those that fill up the last tile (of these, whatever memory holds). K is a multiple of 16.
A weight of bfloat16 has a bias, or 0, in the place of scales.

For few rows one thread reads a row of the weight from its start to its end: memory gives most so.
Four rows at once, as torch's kernel reads them, arrive half as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pilotlight_loader.kernels.assembly import Function, Target
from pilotlight_loader.kernels.tiles import tiles

FloatKind = Literal["int8", "fp8", "bf16"]

_CHAINS = 8  # sums that are independent of each other: more than the latency of an addition
_ELEMENTS = {"int8": "i8", "fp8": "i8", "bf16": "i16"}


def functions(kind: FloatKind, rows: int, target: Target) -> list[Function]:
    """`int8_rows_4` and its like, for up to so many rows: body and entry."""
    body = _rows(kind, rows, target)
    return [body, _entry(f"{kind}_rows_{rows}", body)]


def tile_functions(kind: FloatKind, target: Target) -> list[Function]:
    """`bf16_tiles` and its like, for any number of rows: body and entry."""
    body = _tiles(kind, target)
    return [body, _entry(f"{kind}_tiles", body)]


def _entry(name: str, body: Function) -> Function:
    entry = Function(name, body.target)
    x, floats = entry.word(0, "ptr"), entry.word(1, "ptr")
    count = entry.product(entry.word(6), entry.word(7))
    with entry.loop("0", count, entry.target.lanes) as i:
        value = entry.from_bfloats(entry.at(x, i, "i16"))
        entry.do(f"store {entry.floats} {value}, ptr {entry.at(floats, i, 'float')}, align 4")
    entry.run_by_threads(body)
    return entry


def _rows(kind: FloatKind, rows: int, target: Target) -> Function:
    write = Function(f"{kind}_rows_{rows}_body", target)
    weight = _Weight(write, kind)
    chains = max(1, _CHAINS // rows)
    step = chains * target.lanes
    whole = write.let(f"and i64 {weight.width}, {-step}")
    xs = [weight.numbers(str(m)) for m in range(rows)]
    with write.shared(weight.height) as row:
        sums = [write.zeros(write.floats, rows) for _ in range(chains)]
        line = weight.line(row)
        with write.loop("0", whole, step) as i:
            weight.prefetch(line, i, step)
            for chain in range(chains):
                at = write.sum(i, str(chain * target.lanes))
                weight.step([line], xs, at, [[cell] for cell in sums[chain]])
        with write.loop(whole, weight.width, target.lanes) as i:
            weight.step([line], xs, i, [[cell] for cell in sums[0]])
        for m in range(rows):
            weight.store(str(m), row, [sums[chain][m] for chain in range(chains)])
    return write


def _tiles(kind: FloatKind, target: Target) -> Function:
    write = Function(f"{kind}_tiles_body", target)
    weight = _Weight(write, kind)
    with tiles(write, weight.height, write.word(8)) as (x_rows, rows):
        lines, xs = [weight.line(at) for at in rows], [weight.numbers(at) for at in x_rows]
        sums = [write.zeros(write.floats, len(rows)) for _ in x_rows]
        with write.loop("0", weight.width, target.lanes) as i:
            weight.step(lines, xs, i, sums)
        for at, cells in zip(x_rows, sums, strict=True):
            for number, cell in zip(rows, cells, strict=True):
                weight.store(at, number, [cell])
    return write


class _Weight:
    """As *write* reads the words."""

    def __init__(self, write: Function, kind: FloatKind) -> None:
        self._write, self._kind = write, kind
        self._x, self._codes, self._scales, self._product = (
            write.word(i, "ptr") for i in (1, 2, 3, 4)
        )
        self.height, self.width = write.word(5), write.word(6)
        self._element = _ELEMENTS[kind]

    def line(self, row: str) -> str:
        write = self._write
        return write.at(self._codes, write.product(row, self.width), self._element)

    def numbers(self, row: str) -> str:
        """Of x, in float32."""
        return self._write.at(self._x, self._write.product(row, self.width), "float")

    def prefetch(self, line: str, column: str, count: int) -> None:
        self._write.prefetch(self._write.at(line, column, self._element), self._nbytes(count))

    def step(
        self, lines: Sequence[str], xs: Sequence[str], column: str, sums: Sequence[Sequence[str]]
    ) -> None:
        """sums[m][n] += a register of x' row m times one of the weight's row n."""
        write = self._write
        codes = [
            load_codes(write, self._kind, write.at(line, column, self._element)) for line in lines
        ]
        for x, cells in zip(xs, sums, strict=True):
            address = write.at(x, column, "float")
            value = write.let(f"load {write.floats}, ptr {address}, align 4")
            for code, cell in zip(codes, cells, strict=True):
                write.fma(code, value, cell)

    def store(self, x_row: str, row: str, sums: list[str]) -> None:
        """Scaled; with its bias, where there is one."""
        write = self._write
        value = write.total(sums)
        if self._kind == "bf16":
            has_bias = write.let(f"icmp ne ptr {self._scales}, null")
            at = write.let(f"select i1 {has_bias}, i64 {row}, i64 0")
            some = write.let(f"select i1 {has_bias}, ptr {self._scales}, ptr {self._codes}")
            bias = scale_of(write, write.at(some, at, "i16"))
            bias = write.let(f"select i1 {has_bias}, float {bias}, float -0.0")
            value = write.let(f"fadd float {value}, {bias}")
        else:
            scale = scale_of(write, write.at(self._scales, row, "i16"))
            value = write.let(f"fmul float {value}, {scale}")
        at = write.sum(write.product(self.height, x_row), row)
        write.store_one(value, write.at(self._product, at, "i16"))

    def _nbytes(self, count: int) -> int:
        return count * int(self._element[1:]) // 8


def load_codes(write: Function, kind: FloatKind, pointer: str) -> str:
    """A register of a weight as floats."""
    if kind == "bf16":
        return write.from_bfloats(pointer)
    codes = write.let(f"load {write.ints(8)}, ptr {pointer}, align 1")
    return _e4m3(write, codes) if kind == "fp8" else _int8(write, codes)


def _int8(write: Function, codes: str) -> str:
    wide = write.let(f"sext {write.ints(8)} {codes} to {write.ints(32)}")
    return write.let(f"sitofp {write.ints(32)} {wide} to {write.floats}")


def _e4m3(write: Function, codes: str) -> str:
    """As float16, which has the same bits at other places and an exponent that is larger by 8."""
    ints, kind = write.ints(16), f"<{write.target.lanes} x half>"
    wide = write.let(f"sext {write.ints(8)} {codes} to {ints}")
    sign = write.let(f"and {ints} {wide}, splat (i16 -32768)")
    rest = write.let(f"and {ints} {wide}, splat (i16 127)")
    moved = write.let(f"shl {ints} {rest}, splat (i16 7)")
    bits = write.let(f"or {ints} {sign}, {moved}")
    half = write.let(f"bitcast {ints} {bits} to {kind}")
    small = write.let(f"fpext {kind} {half} to {write.floats}")
    return write.let(f"fmul {write.floats} {small}, splat (float 256.0)")


def scale_of(write: Function, pointer: str) -> str:
    bits = write.let(f"load i16, ptr {pointer}, align 2")
    wide = write.let(f"zext i16 {bits} to i32")
    return write.let(f"bitcast i32 {write.let(f'shl i32 {wide}, 16')} to float")
