"""Heads of queries and keys in bfloat16, turned by their positions: Llama's rotary embedding.

Words: queries, keys [tokens, heads, width], the same of what is written; cosines, sines [positions,
width]; tokens, positions (what a token's number is taken modulo), heads of queries and of keys,
half the width. All is rounded where transformers rounds: the bits are the same.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function, Target


def functions(target: Target) -> list[Function]:
    """`rotary_rows`: body and entry."""
    body = _body(target)
    entry = Function("rotary_rows", target)
    entry.run_by_threads(body)
    return [body, entry]


def _body(target: Target) -> Function:
    write = Function("rotary_rows_body", target)
    places = [write.word(i, "ptr") for i in range(4)]
    cosines, sines = (write.word(i, "ptr") for i in (4, 5))
    tokens, positions, half = (write.word(i) for i in (6, 7, 10))
    width = write.product(half, "2")
    with write.shared(tokens) as token:
        at = write.product(write.let(f"urem i64 {token}, {positions}"), width)
        turns = write.at(cosines, at, "i16"), write.at(sines, at, "i16")
        for source, drain, heads in zip(places[:2], places[2:], (8, 9), strict=True):
            count = write.word(heads)
            with write.loop("0", count) as head:
                first = write.product(write.sum(write.product(token, count), head), width)
                states = write.at(source, first, "i16"), write.at(drain, first, "i16")
                _turn(write, *states, *turns, half)
    return write


def _turn(write: Function, source: str, drain: str, cosines: str, sines: str, half: str) -> None:
    """One head: each number of its first half with that of the second that lies beside it."""
    for i in write.columns(half):
        places = [i, write.sum(i, half)]
        left, right = (write.from_bfloats(write.at(source, at, "i16")) for at in places)
        minus = write.let(f"fneg {write.floats} {right}")
        for at, value, other in zip(places, (left, right), (minus, left), strict=True):
            cosine, sine = (
                write.from_bfloats(write.at(table, at, "i16")) for table in (cosines, sines)
            )
            first, second = _times(write, value, cosine), _times(write, other, sine)
            total = write.let(f"fadd {write.floats} {first}, {second}")
            write.store_rounded(write.rounded(total), write.at(drain, at, "i16"))


def _times(write: Function, left: str, right: str) -> str:
    return write.rounded(write.let(f"fmul {write.floats} {left}, {right}"))
