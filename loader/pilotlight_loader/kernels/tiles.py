"""The order in which many rows of x are multiplied with a weight whose rows lie one by one.

Four rows of x with two of the weight at a time: eight sums, which registers hold. All of x with
sixteen rows of the weight before the next: so x comes from farther caches an eighth as often.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pilotlight_loader.kernels.assembly import Function

ROWS = 4  # of x
TOGETHER = 2  # rows of the weight
_BLOCK = 16


def tiled(rows: int) -> int:
    """Rows of x with those that fill up the last tile."""
    return -(-rows // ROWS) * ROWS


@contextlib.contextmanager
def tiles(write: Function, height: str, rows: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the rows of x and of the weight, of each tile that is this thread's.

    *rows* is a multiple of ROWS. Of an odd *height* the last is done twice, by one thread.
    """
    up = write.sum(height, str(_BLOCK - 1))
    count = write.let(f"udiv i64 {up}, {_BLOCK}")
    with contextlib.ExitStack() as loops:
        block = loops.enter_context(write.shared(count))
        first = write.product(block, str(_BLOCK))
        last = write.least(write.sum(first, str(_BLOCK)), height)
        x_row = loops.enter_context(write.loop("0", rows, ROWS))
        row = loops.enter_context(write.loop(first, last, TOGETHER))
        beside = write.least(write.sum(row, "1"), write.sum(height, "-1"))
        yield [write.sum(x_row, str(m)) for m in range(ROWS)], [row, beside]
