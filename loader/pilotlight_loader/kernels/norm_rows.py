"""Rows of bfloat16 divided by the root of their mean square, times a weight: Llama's norm.

Words: x, weight, y; rows, K, and the bits of a float that is added to the mean square. K is any
number. As in transformers all is float32, rounded to bfloat16 before the weight and after it: but
for the order of the sum it has the same bits.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function, Target

_CHAINS = 4  # sums that are independent of each other


def functions(target: Target) -> list[Function]:
    """`norm_rows`: body and entry."""
    body = _body(target)
    entry = Function("norm_rows", target)
    entry.run_by_threads(body)
    return [body, entry]


def _body(target: Target) -> Function:
    write = Function("norm_rows_body", target)
    x, weight, y = (write.word(i, "ptr") for i in range(3))
    rows, width, bits = (write.word(i) for i in range(3, 6))
    epsilon = write.let(f"bitcast i32 {write.let(f'trunc i64 {bits} to i32')} to float")
    with write.shared(rows) as row:
        first = write.product(row, width)
        source, drain = write.at(x, first, "i16"), write.at(y, first, "i16")
        square = write.let(f"fadd float {_mean_square(write, source, width)}, {epsilon}")
        root = write.call("float", "llvm.sqrt.f32", "float", square)
        factor = write.let(f"fdiv float 1.0, {root}")
        for i in write.columns(width):
            value = write.from_bfloats(write.at(source, i, "i16"))
            value = write.let(f"fmul {write.floats} {value}, {write.splat(factor)}")
            times = write.from_bfloats(write.at(weight, i, "i16"))
            value = write.let(f"fmul {write.floats} {write.rounded(value)}, {times}")
            write.store_rounded(write.rounded(value), write.at(drain, i, "i16"))
    return write


def _mean_square(write: Function, source: str, width: str) -> str:
    lanes = write.target.lanes
    cells = write.zeros(write.floats, _CHAINS)
    most = write.let(f"and i64 {width}, {-_CHAINS * lanes}")
    with write.loop("0", most, _CHAINS * lanes) as i:
        for chain, cell in enumerate(cells):
            _add_square(write, source, write.sum(i, str(chain * lanes)), cell)
    whole = write.let(f"and i64 {width}, {-lanes}")
    with write.loop(most, whole, lanes) as i:
        _add_square(write, source, i, cells[0])
    total = write.total(cells)
    with write.one_by_one():
        cell = write.cell(write.floats, write.splat(total))
        with write.loop(whole, width) as i:
            _add_square(write, source, i, cell)
        total = write.let(f"extractelement {write.floats} {write.get(write.floats, cell)}, i64 0")
    count = write.let(f"sitofp i64 {width} to float")
    return write.let(f"fdiv float {total}, {count}")


def _add_square(write: Function, source: str, column: str, cell: str) -> None:
    value = write.from_bfloats(write.at(source, column, "i16"))
    write.fma(value, value, cell)
