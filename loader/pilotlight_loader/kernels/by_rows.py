"""Which of a product's kernels takes so many rows."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_loader.kernels import tiles
from pilotlight_loader.kernels.compiler import Kernel

FEW = (1, 2, 4)  # rows that kernels of their own are for; three are as slow as four


class ByRows:
    """*few*: by the most rows that each takes; *many*: of any number, in whole tiles, if any."""

    def __init__(self, few: Mapping[int, Kernel], many: Kernel | None) -> None:
        enough = [min(most for most in few if most >= rows) for rows in range(max(few) + 1)]
        self._few = [(most, few[most]) for most in enough]
        self._many = many

    def choose(self, rows: int) -> tuple[int, Kernel]:
        """How many rows it writes, *rows* or more, and the kernel."""
        return self._few[rows] if rows < len(self._few) else (tiles.tiled(rows), self._many)
