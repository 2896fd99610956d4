"""Which bytes are there: half-open ranges, kept sorted and merged. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, end)."""

    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class RangeSet:
    """A set of byte positions. Not thread-safe."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def nbytes(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def ranges(self) -> list[ByteRange]:
        """In order, none touching the next."""
        return [ByteRange(*span) for span in zip(self._starts, self._ends, strict=True)]

    def add(self, start: int, end: int) -> list[ByteRange]:
        """Add [start, end); the answer is what of it was not there yet."""
        if start >= end:
            return []
        fresh = self.gaps(start, end)
        # All that overlap [start, end) or touch it become one.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return fresh

    def gaps(self, start: int, end: int) -> list[ByteRange]:
        """What of [start, end) is not there, in order."""
        found = []
        at = start
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[index] >= end:
                break
            if self._starts[index] > at:
                found.append(ByteRange(at, self._starts[index]))
            at = self._ends[index]
        if at < end:
            found.append(ByteRange(at, end))
        return found
