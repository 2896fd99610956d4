"""What an earlier leader left in a .part file, readable while the fill goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from io import FileIO

from pilotlight_loader.cache.chunk_writers import read_all
from pilotlight_loader.cache.ranges import ByteRange, RangeSet
from pilotlight_loader.cache.tree_digest import chunk_span
from pilotlight_loader.errors import CacheError


class ResumedBytes:
    """Thread-safe. Whoever owns the file closes this first."""

    def __init__(self, part: FileIO, chunks: Iterable[int], nbytes: int, location: str) -> None:
        """*chunks* of an object of *nbytes* are there; *location* is for messages."""
        self._part = part
        self._location = location
        self._ranges = RangeSet()
        self._lock = threading.Lock()
        self._is_closed = False
        for index in chunks:
            self._ranges.add(*chunk_span(index, nbytes))

    def ranges(self) -> list[ByteRange]:
        return self._ranges.ranges()

    def read_into(self, start: int, into: memoryview) -> None:
        """Fill *into*. Raises ValueError outside what is there, CacheError after close(), OSError.

        A read that has begun ends, whatever is closed meanwhile.
        """
        into = into.cast("B")
        if self._ranges.gaps(start, start + len(into)):
            raise ValueError(f"bytes {start} to {start + len(into)} were not there at the start")
        with self._lock:  # a duplicate outlives a close() in another thread
            if self._is_closed:
                raise CacheError(f"{self._location}: the fill has ended")
            descriptor = os.dup(self._part.fileno())
        try:
            read_all(descriptor, into, start)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Idempotent; the file stays open."""
        with self._lock:
            self._is_closed = True
