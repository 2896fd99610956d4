"""A weight of 4 bits as bfloat16 [K, N], in one pass; layout and arithmetic are int4_layout's.

Words: codes, pairs, weight; blocks of rows, K, groups; bytes between the pairs of two groups,
bytes between two columns of the weight. So a part of a weight can be dequantized, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotlight_loader.kernels.assembly import Function, Target


def functions(block: int, target: Target) -> list[Function]:
    """`int4_dense_64` and its like."""
    body = _body(block, target)
    entry = Function(f"int4_dense_{block}", target)
    entry.run_by_threads(body)
    return [body, entry]


def _body(block: int, target: Target) -> Function:
    """Group by group, in each block by block: what a thread writes at a time is near together."""
    write = Function(f"int4_dense_{block}_body", target)
    codes, pairs, weight = (write.word(i, "ptr") for i in range(3))
    blocks, width, groups, pair_bytes, line_bytes = (write.word(i) for i in range(3, 8))
    group = write.let(f"udiv i64 {width}, {groups}")
    with write.shared(write.product(blocks, groups)) as unit:
        g, b = (write.let(f"{verb} i64 {unit}, {blocks}") for verb in ("udiv", "urem"))
        pair = write.at(pairs, write.product(g, pair_bytes), "i8")
        pair = write.at(pair, write.product(b, str(block)), "i32")
        scales = scales_of(write, pair, range(0, block, target.lanes))
        first = write.product(g, group)
        tile = write.at(codes, write.product(write.product(b, width), str(block // 2)), "i8")
        with write.loop(first, write.sum(first, group)) as column:
            line = write.at(weight, write.product(column, line_bytes), "i8")
            line = write.at(line, write.product(b, str(block)), "i16")
            numbers = codes_of(write, tile, column, block)
            for at, (code, (scale, shift)) in enumerate(zip(numbers, scales, strict=True)):
                cell = write.cell(write.floats, shift)
                write.fma(code, scale, cell)
                address = write.at(line, str(at * target.lanes), "i16")
                write.store(write.get(write.floats, cell), address)
    return write


def scales_of(write: Function, pairs: str, rows: Iterable[int]) -> list[tuple[str, str]]:
    """For the register that begins with each of these rows: the scale, and zero - 8 * scale."""
    floats, ints = write.floats, write.ints(32)
    found = []
    for row in rows:
        both = write.let(f"load {ints}, ptr {write.at(pairs, str(row), 'i32')}, align 4")
        low = write.let(f"shl {ints} {both}, splat (i32 16)")
        high = write.let(f"and {ints} {both}, splat (i32 -65536)")
        scale, zero = (write.let(f"bitcast {ints} {bits} to {floats}") for bits in (low, high))
        offset = write.let(f"fmul {floats} {scale}, splat (float -8.0)")
        found.append((scale, write.let(f"fadd {floats} {offset}, {zero}")))
    return found


def codes_of(write: Function, tile: str, column: str, block: int) -> list[str]:
    """A block's codes of one column as registers of floats, 0 … 15."""
    ints, half = write.ints(32), block // 2
    line = write.at(tile, write.product(column, str(half)), "i8")
    low: list[str] = []
    high: list[str] = []
    for at in range(0, half, write.target.lanes):
        packed = write.let(f"load {write.ints(8)}, ptr {write.at(line, str(at), 'i8')}, align 1")
        both = write.let(f"zext {write.ints(8)} {packed} to {ints}")
        low.append(write.let(f"and {ints} {both}, splat (i32 15)"))
        high.append(write.let(f"lshr {ints} {both}, splat (i32 4)"))
    return [write.let(f"uitofp {ints} {code} to {write.floats}") for code in low + high]
