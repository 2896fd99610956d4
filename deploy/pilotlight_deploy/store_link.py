"""Measures how fast a place gives a checkpoint's weights. The loader imports torch."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from pilotlight_loader import Checkpoint, open_checkpoint
from pilotlight_loader.errors import ReadAbortedError, SourceReadError
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.source import ByteSource, Reader
from pilotlight_platform.links import StoreLink

_LIMIT_BYTES = 1 << 30
_LIMIT_S = 3.0
# What is not over at the end does not count: a slow link must finish something by then.
_FIRST_READ_BYTES = 256 << 10
_GROWTH = 4


def measure_store(location: str, limit_s: float = _LIMIT_S) -> tuple[str, StoreLink]:
    """The place's name and its link: weights are read and thrown away, for 3 s or 1 GiB at most.

    Opening the checkpoint comes before that. Raises LoaderErrors.
    """
    with open_checkpoint(location) as checkpoint:
        sources = [checkpoint.source(name) for name in checkpoint.files]
        first_byte_s = _first_byte_s(sources[0])
        reading = _Reading(sources)
        spent_s = reading.run(limit_s)
        least = min(_FIRST_READ_BYTES, sum(source.version.nbytes for source in sources))
        if reading.nbytes < least:  # the rest of a file alone says nothing
            raise SourceReadError(checkpoint.location, f"gave no {least} bytes in {limit_s:g} s")
    how = f"{sources[0].parallel} connections"
    link = StoreLink(reading.nbytes / spent_s, reading.nbytes, how, first_byte_s, time.time())
    return place_of(location, checkpoint), link


def place_of(location: str, checkpoint: Checkpoint) -> str:
    """The bucket, host or file system of *checkpoint*, found at *location*."""
    remote = remote_place(location)
    if remote is not None:
        return remote
    path = Path(checkpoint.location).resolve()
    return f"file://{next(p for p in (path, *path.parents) if p.is_mount())}"


def remote_place(location: str) -> str | None:
    """The bucket or host of *location*; None for a file of this machine. Raises LocationError."""
    where = parse_location(location)
    if where.scheme == "file":
        return None
    if where.scheme == "hf":
        return "hf://"  # one place, whatever the repository
    return f"{where.scheme}://{where.authority}"


def _first_byte_s(source: ByteSource) -> float:
    with contextlib.closing(source.reader()) as reader:
        began_s = time.perf_counter()
        reader.read_into(0, memoryview(bytearray(1)))
        return time.perf_counter() - began_s


class _Reading:
    """Reads of several threads, each with a connection of its own per file."""

    def __init__(self, sources: list[ByteSource]) -> None:
        self.nbytes = 0  # of reads that ended
        self._sources = sources
        self._lock = threading.Lock()  # guards all below, and nbytes
        self._ended_s = 0.0  # when the last of them did
        self._at = (0, 0)  # the file and the byte that are read next
        self._left = _LIMIT_BYTES
        self._over = False
        self._readers: set[Reader] = set()

    def run(self, limit_s: float) -> float:
        """Read until *limit_s* is over at most; returns the seconds that `nbytes` took.

        Raises a SourceReadError if nothing could be read; a connection that is lost later is not
        missed.
        """
        threads = self._sources[0].parallel
        began_s = time.perf_counter()
        with ThreadPoolExecutor(threads, "pilotlight-store") as pool:
            futures = [pool.submit(self._work) for _ in range(threads)]
            try:
                wait(futures, limit_s)
            finally:
                self._stop()  # whatever ends the wait: the pool joins its threads
        if not self.nbytes:
            for future in futures:
                future.result()  # raises what was in the way
        return self._ended_s - began_s

    def _work(self) -> None:
        read_bytes = _FIRST_READ_BYTES
        buffer = memoryview(bytearray(max(source.part_bytes for source in self._sources)))
        with contextlib.ExitStack() as stack, contextlib.suppress(ReadAbortedError):
            readers: dict[int, Reader] = {}
            while (taken := self._take(min(read_bytes, len(buffer)))) is not None:
                number, start, nbytes = taken
                if number not in readers:
                    readers[number] = stack.enter_context(self._reader(self._sources[number]))
                readers[number].read_into(start, buffer[:nbytes])
                self._count(nbytes)
                read_bytes *= _GROWTH

    @contextlib.contextmanager
    def _reader(self, source: ByteSource) -> Iterator[Reader]:
        reader = source.reader()
        with self._lock:
            self._readers.add(reader)
            if self._over:
                reader.abort()
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.discard(reader)  # never aborted once it is closed
            reader.close()

    def _take(self, nbytes: int) -> tuple[int, int, int] | None:
        """A range that nobody else reads: the file's number, its start, its bytes."""
        with self._lock:
            number, start = self._at
            while number < len(self._sources) and start >= self._sources[number].version.nbytes:
                number, start = number + 1, 0
            if self._over or self._left <= 0 or number == len(self._sources):
                return None
            nbytes = min(nbytes, self._sources[number].version.nbytes - start, self._left)
            self._at = (number, start + nbytes)
            self._left -= nbytes
            return number, start, nbytes

    def _count(self, nbytes: int) -> None:
        with self._lock:
            if not self._over:
                self.nbytes += nbytes
                self._ended_s = time.perf_counter()

    def _stop(self) -> None:
        with self._lock:
            self._over = True
            for reader in self._readers:
                reader.abort()
