"""Letters as strokes on a grid of 4 by 6, for charts: capitals, digits and what labels need."""

from __future__ import annotations

import itertools
from functools import cache

GLYPH_WIDTH = 5.6  # with the space to the next, where a capital is 6 high

Stroke = tuple[tuple[float, float], tuple[float, float]]

# Polylines of points: x to the right, y up from the baseline.
_LINES = {
    "A": ("00 26 40", "12 32"),
    "B": ("00 06 36 45 44 33 03", "33 42 41 30 00"),
    "C": ("45 36 16 05 01 10 30 41",),
    "D": ("00 06 26 44 42 20 00",),
    "E": ("46 06 00 40", "03 33"),
    "F": ("46 06 00", "03 33"),
    "G": ("45 36 16 05 01 10 30 41 43 23",),
    "H": ("00 06", "40 46", "03 43"),
    "I": ("20 26", "10 30", "16 36"),
    "J": ("46 41 30 10 01",),
    "K": ("00 06", "46 02", "14 40"),
    "L": ("06 00 40",),
    "M": ("00 06 23 46 40",),
    "N": ("00 06 40 46",),
    "O": ("10 01 05 16 36 45 41 30 10",),
    "P": ("00 06 36 45 44 33 03",),
    "Q": ("10 01 05 16 36 45 41 30 10", "22 40"),
    "R": ("00 06 36 45 44 33 03", "23 40"),
    "S": ("45 36 16 05 04 13 33 42 41 30 10 01",),
    "T": ("06 46", "26 20"),
    "U": ("06 01 10 30 41 46",),
    "V": ("06 20 46",),
    "W": ("06 10 24 30 46",),
    "X": ("00 46", "06 40"),
    "Y": ("06 23 46", "23 20"),
    "Z": ("06 46 00 40",),
    "0": ("10 01 05 16 36 45 41 30 10", "12 34"),
    "1": ("15 26 20", "10 30"),
    "2": ("05 16 36 45 44 00 40",),
    "3": ("05 16 36 45 44 33 42 41 30 10 01", "13 33"),
    "4": ("30 36 02 42",),
    "5": ("46 06 03 33 42 41 30 10 01",),
    "6": ("36 16 05 01 10 30 41 42 33 03",),
    "7": ("06 46 10",),
    "8": ("13 04 05 16 36 45 44 33 13 02 01 10 30 41 42 33",),
    "9": ("10 30 41 45 36 16 05 04 13 43",),
    ".": ("20 20",),
    ",": ("21 10",),
    "-": ("13 33",),
    "+": ("13 33", "22 24"),
    "=": ("02 42", "04 44"),
    "_": ("00 40",),
    ":": ("21 21", "24 24"),
    "/": ("00 46",),
    "(": ("30 21 25 36",),
    ")": ("10 21 25 16",),
    " ": (),
}
_UNKNOWN = ("00 06 46 40 00",)


@cache
def strokes(character: str) -> tuple[Stroke, ...]:
    """The strokes of a character; small letters look like capitals, unknown ones like a box."""
    found: list[Stroke] = []
    for line in _LINES.get(character.upper(), _UNKNOWN):
        points = [(float(point[0]), float(point[1])) for point in line.split()]
        found += itertools.pairwise(points)
    return tuple(found)
