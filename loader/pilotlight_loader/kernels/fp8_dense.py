"""e4m3 codes as bfloat16, which holds them exactly. torch takes 40 times as long.

Words: codes, numbers; how many, a multiple of 16.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function, Target
from pilotlight_loader.kernels.float_rows import load_codes

_PIECE = 16


def functions(target: Target) -> list[Function]:
    """`fp8_dense`: body and entry."""
    body = Function("fp8_dense_body", target)
    codes, numbers = (body.word(i, "ptr") for i in (0, 1))
    count = body.let(f"udiv i64 {body.word(2)}, {_PIECE}")
    with body.shared(count) as piece:
        first = body.product(piece, str(_PIECE))
        with body.loop(first, body.sum(first, str(_PIECE)), target.lanes) as i:
            values = load_codes(body, "fp8", body.at(codes, i, "i8"))
            body.store(values, body.at(numbers, i, "i16"))
    entry = Function("fp8_dense", target)
    entry.run_by_threads(body)
    return [body, entry]
