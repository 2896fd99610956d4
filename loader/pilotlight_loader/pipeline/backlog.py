"""How far the disk may lag behind a load, and what is left out when it would lag further. No I/O.

A disk slower than the link must not slow the load: the device is why it runs. Nor is the whole
write-through given up for it, as the disk may take nine tenths. What finds the backlog full is left
out, by whole chunks of the cache's grid: only finished chunks are worth anything to the next load,
which reads them from the disk, brings the others, and then publishes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_loader.layout import CHUNK_BYTES
from pilotlight_loader.transfer.parts import Part

_Chunk = tuple[str, int]  # file, index on the grid


class Backlog:
    """Counts staging buffers, whatever a part fills of its own. Its owner locks."""

    def __init__(self, limit: int) -> None:
        """At most *limit* buffers wait for the disk; the second half only finishes chunks."""
        self._limit = max(1, limit)
        self._waiting = 0
        self._begun: set[_Chunk] = set()
        self._left_out: set[_Chunk] = set()

    def take(self, part: Part) -> bool:
        """Whether the disk is to have *part*; then done() follows."""
        chunks = {
            (part.file, index)
            for index in range(part.start // CHUNK_BYTES, -(-part.end // CHUNK_BYTES))
        }
        # Readers are in a few chunks at once: those that the disk has begun can still be finished.
        limit = self._limit if chunks <= self._begun else max(1, self._limit // 2)
        if chunks & self._left_out or self._waiting >= limit:
            self._left_out |= chunks
            return False
        self._begun |= chunks
        self._waiting += 1
        return True

    def done(self) -> None:
        """The disk has let go of a part."""
        self._waiting -= 1

    def leave_out(self, part: Part) -> None:
        """The disk did not take it after all."""
        self.done()
        self._left_out |= {(part.file, part.start // CHUNK_BYTES)}

    def is_short_of(self, file: str) -> bool:
        """Whether the disk lacks some of *file* because it was too slow."""
        return any(found == file for found, _ in self._left_out)

    def left_out_bytes(self, file: str, spans: Sequence[tuple[int, int]]) -> int:
        """How much of *spans* [start, end) is in chunks that the disk was too slow for."""
        return sum(
            min(end, (index + 1) * CHUNK_BYTES) - max(start, index * CHUNK_BYTES)
            for start, end in spans
            for index in range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES))
            if (file, index) in self._left_out
        )
