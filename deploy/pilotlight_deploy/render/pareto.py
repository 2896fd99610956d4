"""A Pareto chart as a PNG: what is spent against what is suffered, and which points are best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight_deploy.render.canvas import Canvas, Colour

WIDTH, HEIGHT = 1200, 800
_LEFT, _RIGHT, _TOP, _BOTTOM = 130, 60, 60, 110
_TEXT = 11.0  # height of a capital, in pixels
_INK: Colour = (40, 44, 52)
_GRID: Colour = (225, 228, 232)
_BEST: Colour = (0, 122, 92)
_OTHER: Colour = (176, 60, 50)


@dataclass(frozen=True, slots=True)
class Point:
    """One policy: smaller is better in both."""

    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values on a logarithmic axis between two powers of ten; zero stands at its lower end."""

    low: int
    high: int
    begin: float
    end: float

    def at(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self.low
        part = (max(self.low, exponent) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self) -> list[float]:
        steps = (1, 2, 5) if self.high - self.low <= 2 else (1,)
        decades = range(self.low, self.high)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [*values, 10.0**self.high]


def draw_pareto(points: Sequence[Point], path: Path, *, x: str, y: str) -> None:
    """Write *path*. The points that nothing beats in both are joined, in green."""
    canvas = Canvas(WIDTH, HEIGHT)
    across = _axis([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    up = _axis([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    for value in across.ticks():
        canvas.line(across.at(value), _TOP, across.at(value), HEIGHT - _BOTTOM, _GRID)
        canvas.text(across.at(value), HEIGHT - _BOTTOM + 24, f"{value:g}", _INK, _TEXT, align=0.5)
    for value in up.ticks():
        canvas.line(_LEFT, up.at(value), WIDTH - _RIGHT, up.at(value), _GRID)
        canvas.text(_LEFT - 12, up.at(value) + _TEXT / 2, f"{value:g}", _INK, _TEXT, align=1.0)
    canvas.text(WIDTH / 2, HEIGHT - 36, x, _INK, _TEXT, align=0.5)
    canvas.text(_LEFT, _TOP - 24, y, _INK, _TEXT)
    best = pareto_front(points)
    for before, after in itertools.pairwise(best):
        canvas.line(
            across.at(before.x), up.at(before.y), across.at(after.x), up.at(after.y), _BEST, 1.6
        )
    for point in points:
        colour = _BEST if point in best else _OTHER
        canvas.disc(across.at(point.x), up.at(point.y), 6.0, colour)
        canvas.text(across.at(point.x) + 12, up.at(point.y) - 8, point.label, colour, _TEXT)
    canvas.write_png(path)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point is at least as good as in both, by x."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, each.y)):
        if not front or point.y < front[-1].y:
            front.append(point)
    return front


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    positive = [value for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    return _Axis(low, max(low + 1, math.ceil(math.log10(max(positive)))), begin, end)
