"""The order of a turn's sides: what runs first finds other caches than what runs last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Side = TypeVar("_Side")


def in_turn(sides: Sequence[_Side], turn: int) -> list[_Side]:
    """*sides* as they stand in turns 0, 2, …, backwards in between."""
    return list(reversed(sides)) if turn % 2 else list(sides)
