"""A trellis' weight as bfloat16 [K, N], in one pass.

Words: codes, scales, weight; blocks of rows, K, groups; bytes between the scales of two groups,
bytes between two columns of the weight. So a part of a weight can be dequantized, too.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.short_rows import INTS, PAIRS, TARGET
from pilotlight_loader.kernels.trellis_unit import PAIR_BYTES, TrellisNumbers, factor_of
from pilotlight_loader.quantize.trellis_layout import BLOCK

_ROWS = range(0, BLOCK, TARGET.lanes)


def functions() -> list[Function]:
    """`trellis_dense`."""
    body = _body()
    entry = Function("trellis_dense", TARGET)
    entry.run_by_threads(body)
    return [body, entry]


def _body() -> Function:
    write = Function("trellis_dense_body", TARGET)
    codes, scales, weight = (write.word(i, "ptr") for i in range(3))
    blocks, width, groups, scale_bytes, line_bytes = (write.word(i) for i in range(3, 8))
    group = write.let(f"udiv i64 {width}, {groups}")
    with write.shared(blocks) as block:
        first_row = write.product(block, str(BLOCK))
        half = write.product(block, width)
        tile = write.at(codes, write.product(half, str(PAIR_BYTES // 2)), "i8")
        numbers = TrellisNumbers(write)
        with write.loop("0", groups) as g:
            line = write.at(scales, write.product(g, scale_bytes), "i8")
            line = write.at(line, first_row, "i16")
            factors = [factor_of(write, write.at(line, str(row), "i16")) for row in _ROWS]
            first = write.product(g, group)
            with write.loop(first, write.sum(first, group), 2) as column:
                at = write.product(column, str(PAIR_BYTES // 2))
                registers = numbers.next(write.at(tile, at, "i8"))
                for row, factor, pairs in zip(_ROWS, factors, registers, strict=True):
                    at = write.product(column, line_bytes)
                    for number in _columns(write, pairs):
                        line = write.at(write.at(weight, at, "i8"), first_row, "i16")
                        cell = write.cell(write.floats, factor[1])
                        write.fma(number, factor[0], cell)
                        value = write.get(write.floats, cell)
                        write.store(value, write.at(line, str(row), "i16"))
                        at = write.sum(at, line_bytes)
    return write


def _columns(write: Function, pairs: str) -> list[str]:
    """Two registers of floats, of eight rows each."""
    both = write.let(f"bitcast {PAIRS} {pairs} to {INTS}")
    found = (f"and {INTS} {both}, splat (i32 65535)", f"lshr {INTS} {both}, splat (i32 16)")
    return [
        write.let(f"sitofp {INTS} {write.let(integers)} to {write.floats}") for integers in found
    ]
