"""A float among a kernel's words."""

from __future__ import annotations

import functools
import struct


@functools.lru_cache(maxsize=64)
def float_bits(value: float) -> int:
    """The 32 bits of what *value* is as a float."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits
