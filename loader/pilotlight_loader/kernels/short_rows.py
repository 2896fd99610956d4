"""Rows of bfloat16 as 16-bit integers, with one scale for each group of columns.

An AVX2 register multiplies 16 such numbers with as many codes and adds them in pairs, exactly, in
one instruction, where float32 takes eight and every code first has to become a float. A number's
error is at most half of 1/32767 of the largest in its row and group: of the norm of 128 numbers
1.7e-4 if all are so, where rounding the product to bfloat16 takes 2e-3.

These kernels' words begin with: x, numbers [rows, K], scales and sums (float32 [rows, groups], a
sum is that of a group's numbers, times its scale), rows of x, K, columns of a group. The last
group may have fewer; K and the group are multiples of 8.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function, Target

TARGET = Target(lanes=8, rounds_to_bfloat=False)  # whatever the CPU has beyond AVX2
WORDS = 7
INTS, PAIRS = "<8 x i32>", "<16 x i16>"
_LARGEST = 32767.0
# 2^-109, whose reciprocal times _LARGEST is finite; what is less becomes zero.
_SMALLEST = "0x3920000000000000"


class ShortRows:
    """The words that these kernels begin with, as *write* reads them."""

    def __init__(self, write: Function) -> None:
        self._write = write
        self.x, self.numbers, self.scales, self.sums = (write.word(i, "ptr") for i in range(4))
        self.rows, self.width, self.group = (write.word(i) for i in range(4, WORDS))
        self.groups = write.let(f"udiv i64 {write.sum(self.width, self.group, '-1')}, {self.group}")

    def end(self, first: str) -> str:
        """Of the group that begins with that column."""
        write = self._write
        return write.least(write.sum(first, self.group), self.width)

    def factor(self, row: str, group: str, where: str) -> str:
        """A scale, or a sum, in every lane."""
        write = self._write
        at = write.at(where, write.sum(write.product(row, self.groups), group), "float")
        return write.splat(write.let(f"load float, ptr {at}, align 4"))

    def fill(self, unit: str) -> None:
        """Numbers, scale and sum of that group, counted row by row."""
        write = self._write
        row, g = (write.let(f"{verb} i64 {unit}, {self.groups}") for verb in ("udiv", "urem"))
        first = write.product(g, self.group)
        count = write.let(f"sub i64 {self.end(first)}, {first}")
        at = write.sum(write.product(row, self.width), first)
        source = write.at(self.x, at, "i16")
        largest = _largest(write, source, count)
        usable = write.let(f"fcmp uge float {largest}, {_SMALLEST}")  # as NaN is
        scale, factor = (
            write.let(f"select i1 {usable}, float {write.let(f'fdiv float {over}')}, float 0.0")
            for over in (f"{largest}, {_LARGEST}", f"{_LARGEST}, {largest}")
        )
        total = _shorten(write, source, write.at(self.numbers, at, "i16"), count, factor)
        total = write.let(f"fmul float {total}, {scale}")
        write.do(f"store float {scale}, ptr {write.at(self.scales, unit, 'float')}, align 4")
        write.do(f"store float {total}, ptr {write.at(self.sums, unit, 'float')}, align 4")


def filler() -> Function:
    """`short_rows`: fills them, by all threads."""
    write = Function("short_rows", TARGET)
    short = ShortRows(write)
    with write.shared(write.product(short.rows, short.groups)) as unit:
        short.fill(unit)
    return write


def entry(name: str, body: Function, filling: Function | None) -> Function:
    """Fills the numbers, by this thread where they are few, and runs *body* by all."""
    write = Function(name, TARGET)
    if filling is None:
        short = ShortRows(write)
        with write.loop("0", write.product(short.rows, short.groups)) as unit:
            short.fill(unit)
    else:
        write.run_by_threads(filling)
    write.run_by_threads(body)
    return write


def multiply(write: Function, left: str, right: str, cell: str) -> None:
    """cell += left * right, 16 numbers each, in pairs; bytes of 256 columns fit 32 bits."""
    sums = write.call(INTS, "llvm.x86.avx2.pmadd.wd", PAIRS, left, right)
    before = write.get(INTS, cell)
    write.put(INTS, write.let(f"add {INTS} {before}, {sums}"), cell)


def _largest(write: Function, source: str, count: str) -> str:
    """Of the magnitudes, as a float: bfloat16 without its sign is ordered as integers are."""
    kind = "<8 x i16>"
    most = write.cell(kind, "zeroinitializer")
    with write.loop("0", count, 8) as i:
        bits = write.let(f"load {kind}, ptr {write.at(source, i, 'i16')}, align 2")
        bits = write.let(f"and {kind} {bits}, splat (i16 32767)")
        bits = write.call(kind, "llvm.umax.v8i16", kind, bits, write.get(kind, most))
        write.put(kind, bits, most)
    bits = write.call("i16", "llvm.vector.reduce.umax.v8i16", kind, write.get(kind, most))
    wide = write.let(f"zext i16 {bits} to i32")
    return write.let(f"bitcast i32 {write.let(f'shl i32 {wide}, 16')} to float")


def _shorten(write: Function, source: str, drain: str, count: str, factor: str) -> str:
    """The sum of the numbers, as a float."""
    total, factor = write.cell(INTS, "zeroinitializer"), write.splat(factor)
    with write.loop("0", count, 8) as i:
        value = write.from_bfloats(write.at(source, i, "i16"))
        value = write.let(f"fmul {write.floats} {value}, {factor}")
        number = write.call(INTS, "llvm.x86.avx.cvt.ps2dq.256", write.floats, value)
        short = write.let(f"trunc {INTS} {number} to <8 x i16>")
        write.do(f"store <8 x i16> {short}, ptr {write.at(drain, i, 'i16')}, align 2")
        write.put(INTS, write.let(f"add {INTS} {write.get(INTS, total)}, {number}"), total)
    whole = write.call("i32", "llvm.vector.reduce.add.v8i32", INTS, write.get(INTS, total))
    return write.let(f"sitofp i32 {whole} to float")
