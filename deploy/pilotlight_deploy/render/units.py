"""Quantities as people read them. Decimal units: a link's GB/s and a file's GB agree."""

from __future__ import annotations

import re


def duration(seconds: float) -> str:
    """``212 ms``; one decimal below 10 ms, seconds from 1 s on."""
    if seconds >= 0.9995:
        return f"{seconds:.2f} s"
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def size(nbytes: float) -> str:
    """``746 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{_digits(nbytes)} {unit}"
        nbytes /= 1000
    return f"{_digits(nbytes)} TB"


def parse_size(text: str) -> int:
    """Bytes of ``746MB`` or ``1.5 TB``; a number alone is bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write it as in 200GB")
    return round(float(match[1]) * 10.0 ** (3 * " kMGT".index(match[2] or " ")))


def count(number: float) -> str:
    """``373 M``, for parameters."""
    for unit in ("", " k", " M", " B"):
        if number < 999.5:
            return f"{_digits(number)}{unit}"
        number /= 1000
    return f"{_digits(number)} T"


def rate(nbytes: float, seconds: float) -> str:
    """``21.3 GB/s``; empty where there is nothing to divide."""
    if nbytes <= 0 or seconds <= 0:
        return ""
    return f"{_digits(nbytes / seconds / 1e9)} GB/s"


def _digits(value: float) -> str:
    # Three significant digits, never an exponent.
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
