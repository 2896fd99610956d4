"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Return it to the system, where the C library can; milliseconds.

    glibc before 2.38 seldom uses again what was allocated aligned, as torch's tensors are: rounding
    one weight of 8 MiB after the other held 8 MiB more after each.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library than glibc
        return lambda _kept: None
    return trim
