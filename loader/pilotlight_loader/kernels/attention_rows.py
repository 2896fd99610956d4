"""Attention of one query for each row and head, over all columns: softmax(q K^T) V.

Words: queries [rows, heads, width], keys and values, what is written [rows, heads, width of a
value]; floats of each query that a thread has in hand, how many; rows, heads, heads that share
keys, columns, both widths (multiples of 16); of keys and of values how many numbers lie between
two rows, heads and columns; the bits of the scores' scale, a float. Sums are float32, rounded once.

One or two queries of the same keys at a time: what is read and becomes float32 then serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_loader.kernels.assembly import Function, Target
from pilotlight_loader.kernels.exponential import exponential

_TOGETHER = 4  # columns
_AT_ONCE = 16  # numbers of a value
_LEAST = "0xFFF0000000000000"  # minus infinity


def functions(queries: int, target: Target) -> list[Function]:
    """`attention_rows_2` and its like: body and entry."""
    body = _body(queries, target)
    entry = Function(f"attention_rows_{queries}", target)
    entry.run_by_threads(body)
    return [body, entry]


def _body(count: int, target: Target) -> Function:
    write = Function(f"attention_rows_{count}_body", target)
    states, keys, values, drain, floats = (write.word(i, "ptr") for i in range(5))
    room, rows, heads, sharing, columns = (write.word(i) for i in range(5, 10))
    width, value_width = write.word(10), write.word(11)
    key_steps, value_steps = ([write.word(i) for i in of] for of in (range(12, 15), range(15, 18)))
    bits = write.let(f"trunc i64 {write.word(18)} to i32")
    scale = write.splat(write.let(f"bitcast i32 {bits} to float"))
    thread = write.let("call i32 @omp_get_thread_num()")
    thread = write.product(write.let(f"zext i32 {thread} to i64"), str(count))
    places = [write.product(write.sum(thread, str(i)), room) for i in range(count)]
    queries = [write.at(floats, place, "float") for place in places]
    scores = [write.at(query, width, "float") for query in queries]
    units = write.let(f"udiv i64 {write.product(rows, heads)}, {count}")
    with write.shared(units) as unit:
        first = write.product(unit, str(count))
        row, head = (write.let(f"{verb} i64 {first}, {heads}") for verb in ("udiv", "urem"))
        head = write.let(f"udiv i64 {head}, {sharing}")
        key, value = (
            write.at(whole, write.sum(write.product(row, by[0]), write.product(head, by[1])), "i16")
            for whole, by in ((keys, key_steps), (values, value_steps))
        )
        numbers = [write.sum(first, str(i)) for i in range(count)]
        for number, query in zip(numbers, queries, strict=True):
            source = write.at(states, write.product(number, width), "i16")
            with write.loop("0", width, target.lanes) as i:
                part = write.from_bfloats(write.at(source, i, "i16"))
                part = write.let(f"fmul {write.floats} {part}, {scale}")
                _keep(write, part, write.at(query, i, "float"))
        _score(write, queries, key, scores, columns, width, key_steps[2])
        factors = []
        for score in scores:
            total = _exponentials(write, score, columns)
            factors.append(write.splat(write.let(f"fdiv float 1.0, {total}")))
        drains = [write.at(drain, write.product(at, value_width), "i16") for at in numbers]
        with write.loop("0", value_width, _AT_ONCE) as i:
            part = write.at(value, i, "i16")
            sums = _weigh(write, scores, part, columns, value_steps[2])
            for place, factor, registers in zip(drains, factors, sums, strict=True):
                for register, total in enumerate(registers):
                    share = write.let(f"fmul {write.floats} {total}, {factor}")
                    at = write.sum(i, str(register * target.lanes))
                    write.store(share, write.at(place, at, "i16"))
    return write


def _score(
    write: Function,
    queries: Sequence[str],
    key: str,
    scores: Sequence[str],
    columns: str,
    width: str,
    step: str,
) -> None:
    """Of each column; of those that fill up the last _TOGETHER the last is done again."""
    last = write.sum(columns, "-1")
    with write.loop("0", columns, _TOGETHER) as column:
        places = [write.least(write.sum(column, str(i)), last) for i in range(_TOGETHER)]
        lines = [write.at(key, write.product(at, step), "i16") for at in places]
        sums = [write.zeros(write.floats, len(queries)) for _ in lines]
        with write.loop("0", width, write.target.lanes) as i:
            numbers = [_floats(write, write.at(query, i, "float")) for query in queries]
            for line, cells in zip(lines, sums, strict=True):
                part = write.from_bfloats(write.at(line, i, "i16"))
                for number, cell in zip(numbers, cells, strict=True):
                    write.fma(part, number, cell)
        for at, cells in zip(places, sums, strict=True):
            for mine, cell in zip(scores, cells, strict=True):
                score = write.total([cell])
                write.do(f"store float {score}, ptr {write.at(mine, at, 'float')}, align 4")


def _exponentials(write: Function, scores: str, columns: str) -> str:
    """In the place of the scores, of how much less than the largest they are; and their sum."""
    lanes, kind = write.target.lanes, write.floats
    up = write.let(f"and i64 {write.sum(columns, str(lanes - 1))}, {-lanes}")
    with write.loop(columns, up) as column:
        write.do(f"store float {_LEAST}, ptr {write.at(scores, column, 'float')}, align 4")
    most = write.cell(kind, f"splat (float {_LEAST})")
    with write.loop("0", up, lanes) as column:
        score, before = _floats(write, write.at(scores, column, "float")), write.get(kind, most)
        is_more = write.let(f"fcmp ogt {kind} {score}, {before}")
        more = write.let(f"select {write.ints(1)} {is_more}, {kind} {score}, {kind} {before}")
        write.put(kind, more, most)
    name = f"llvm.vector.reduce.fmax.v{lanes}f32"
    largest = write.splat(write.call("float", name, kind, write.get(kind, most)))
    (total,) = write.zeros(kind, 1)
    with write.loop("0", up, lanes) as column:
        place = write.at(scores, column, "float")
        less = write.let(f"fsub {kind} {_floats(write, place)}, {largest}")
        share = exponential(write, less)
        _keep(write, share, place)
        write.put(kind, write.let(f"fadd {kind} {write.get(kind, total)}, {share}"), total)
    return write.total([total])


def _weigh(
    write: Function, scores: Sequence[str], value: str, columns: str, step: str
) -> list[list[str]]:
    """For each query the sum of all columns' _AT_ONCE numbers, times the columns' shares."""
    registers, kind = _AT_ONCE // write.target.lanes, write.floats
    together = _TOGETHER // len(scores)
    chains = [[write.zeros(kind, registers) for _ in scores] for _ in range(together)]
    whole = write.let(f"and i64 {columns}, {-together}")
    with write.loop("0", whole, together) as column:
        for i, sums in enumerate(chains):
            _add(write, scores, value, write.sum(column, str(i)), step, sums)
    with write.loop(whole, columns) as column:
        _add(write, scores, value, column, step, chains[0])
    return [
        [_sum(write, [chain[query][register] for chain in chains]) for register in range(registers)]
        for query in range(len(scores))
    ]


def _add(
    write: Function,
    scores: Sequence[str],
    value: str,
    column: str,
    step: str,
    sums: Sequence[Sequence[str]],
) -> None:
    line = write.at(value, write.product(column, step), "i16")
    places = [write.at(mine, column, "float") for mine in scores]
    shares = [write.splat(write.let(f"load float, ptr {place}, align 4")) for place in places]
    for register in range(len(sums[0])):
        at = write.at(line, str(register * write.target.lanes), "i16")
        number = write.from_bfloats(at)
        for share, cells in zip(shares, sums, strict=True):
            write.fma(number, share, cells[register])


def _sum(write: Function, cells: Sequence[str]) -> str:
    total, *rest = (write.get(write.floats, cell) for cell in cells)
    for other in rest:
        total = write.let(f"fadd {write.floats} {total}, {other}")
    return total


def _floats(write: Function, pointer: str) -> str:
    return write.let(f"load {write.floats}, ptr {pointer}, align 4")


def _keep(write: Function, floats: str, pointer: str) -> None:
    write.do(f"store {write.floats} {floats}, ptr {pointer}, align 4")
