"""x @ weight.T for a few rows of bfloat16 and a weight of one byte a number: int8, or e4m3.

Words: x' address, x in float32 (to be filled), codes, scales, product; N, K, and how many rows x
has (of the others, up to the kernel's, whatever memory holds). K is a multiple of 16. One thread
reads a row of the weight from its start to its end: memory gives most so. Four rows at once, as
torch's kernel reads them, arrive half as fast.
"""

from __future__ import annotations

from typing import Literal

from pilotlight_loader.quantize.kernels.assembly import Function, Target

ByteKind = Literal["int8", "fp8"]

_AHEAD_BYTES = 8192  # of the prefetch, into the second cache; beyond a page the CPU does not guess
_LINE_BYTES = 64
_CHAINS = 8  # sums that are independent of each other: more than the latency of an addition


def functions(kind: ByteKind, rows: int, target: Target) -> list[Function]:
    """`int8_rows_4` and its like: entry and body."""
    body = _body(kind, rows, target)
    entry = Function(f"{kind}_rows_{rows}", target)
    x, floats = entry.word(0, "ptr"), entry.word(1, "ptr")
    width = entry.word(6)
    count = entry.product(width, entry.word(7))
    with entry.loop("0", count, target.lanes) as i:
        value = entry.from_bfloats(entry.at(x, i, "i16"))
        entry.do(f"store {entry.floats} {value}, ptr {entry.at(floats, i, 'float')}, align 4")
    entry.run_by_threads(body)
    return [body, entry]


def _body(kind: ByteKind, rows: int, target: Target) -> Function:
    write = Function(f"{kind}_rows_{rows}_body", target)
    x, codes, scales, product = (write.word(i, "ptr") for i in (1, 2, 3, 4))
    height, width = write.word(5), write.word(6)
    start, end = write.share(height)
    chains = max(1, _CHAINS // rows)
    whole = write.let(f"and i64 {width}, {-chains * target.lanes}")
    xs = [write.at(x, write.product(width, str(m)), "float") for m in range(rows)]
    with write.loop(start, end) as row:
        sums = [
            [write.cell(write.floats, "zeroinitializer") for _ in range(chains)]
            for _ in range(rows)
        ]
        line = write.at(codes, write.product(row, width), "i8")
        with write.loop("0", whole, chains * target.lanes) as i:
            prefetch(write, line, i, chains * target.lanes)
            for chain in range(chains):
                at = write.sum(i, str(chain * target.lanes))
                _step(write, kind, line, at, xs, [sums[m][chain] for m in range(rows)])
        with write.loop(whole, width, target.lanes) as i:
            _step(write, kind, line, i, xs, [sums[m][0] for m in range(rows)])
        scale = scale_of(write, write.at(scales, row, "i16"))
        for m in range(rows):
            value = write.let(f"fmul float {write.total(sums[m])}, {scale}")
            at = write.sum(write.product(height, str(m)), row)
            write.store_one(value, write.at(product, at, "i16"))
    return write


def prefetch(write: Function, line: str, i: str, nbytes: int) -> None:
    for offset in range(_AHEAD_BYTES, _AHEAD_BYTES + nbytes, _LINE_BYTES):
        address = write.at(line, write.sum(i, str(offset)), "i8")
        write.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 2, i32 1)")


def _step(
    write: Function, kind: ByteKind, line: str, i: str, xs: list[str], sums: list[str]
) -> None:
    """A register of codes, times those of every row of x."""
    codes = load_codes(write, kind, write.at(line, i, "i8"))
    for x, cell in zip(xs, sums, strict=True):
        address = write.at(x, i, "float")
        value = write.let(f"load {write.floats}, ptr {address}, align 4")
        write.fma(codes, value, cell)


def load_codes(write: Function, kind: ByteKind, pointer: str) -> str:
    """A register of codes as floats."""
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
