"""The weight that stands in for one of a model's when a GPU's kernel is tried."""

from __future__ import annotations

_MOST_ROWS = 1024  # a whole layer's weight, in float32 and more than once, can be gigabytes
_BLOCK = 128  # a multiple of the rows that any of the kernels takes at once


def trial_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """[N, K] for a weight of *shape*: the same columns, at most 1024 rows.

    As many of them are left in the last block, so that what is compiled, and its tail, is the same.
    """
    rows, columns = shape
    return (rows if rows <= _MOST_ROWS else _MOST_ROWS - (-rows % _BLOCK), columns)
