"""Reader threads that bring what a fill is missing from its source."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from mmap import mmap
from queue import Empty, SimpleQueue

from pilotlight_loader.cache.checking import Progress
from pilotlight_loader.cache.filling import STALL_S, Filling
from pilotlight_loader.cache.ranges import ByteRange
from pilotlight_loader.errors import (
    CacheError,
    LoadCancelledError,
    ReadAbortedError,
    SourceReadError,
)
from pilotlight_loader.sources.source import ByteSource, Reader

# As much as a load's staging ring; 32 readers with parts of 8 MiB.
BUFFERS_BYTES = 512 * 1024 * 1024
# One part is read into one while the other is on its way to the disk.
_BUFFERS_PER_READER = 2
_CANCEL_POLL_S = 0.05

Delay = Callable[[int, SourceReadError, Callable[[], float]], float | None]


def fetch(
    source: ByteSource,
    filling: Filling,
    delay_s: Delay,
    *,
    progress: Progress | None,
    cancel: threading.Event,
) -> None:
    """Read all that is missing; the first error ends it, when every thread has ended.

    Raises SourceReadError, LoadCancelledError, and what made the fill fail.
    """
    parts = _parts(filling.missing(), source.part_bytes)
    if not parts:
        return
    fetching = _Fetch(source, filling, parts, delay_s, progress)
    room = BUFFERS_BYTES // (_BUFFERS_PER_READER * source.part_bytes)
    threads = max(1, min(source.parallel, room, len(parts)))
    with ThreadPoolExecutor(threads, thread_name_prefix="cache-pull") as pool:
        running = {pool.submit(fetching.read_parts) for _ in range(threads)}
        try:
            _watch(running, cancel, filling)
        finally:
            fetching.stop()  # whatever it was that ended the wait, Ctrl-C too


def _watch(running: set[Future[None]], cancel: threading.Event, filling: Filling) -> None:
    """Raises the first error that a thread met, LoadCancelledError."""
    while running:
        # A future cannot be waited for together with an event.
        ended, running = wait(running, _CANCEL_POLL_S, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()
        if cancel.is_set():
            raise LoadCancelledError(f"{filling.identity.location}: cancelled")
    if filling.error is not None:
        raise filling.error


class _Fetch:
    """What the reader threads share."""

    def __init__(
        self,
        source: ByteSource,
        filling: Filling,
        parts: list[ByteRange],
        delay_s: Delay,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._filling = filling
        self._parts = parts
        self._delay_s = delay_s
        self._progress = progress
        self._total = filling.identity.nbytes
        self._done = self._total - sum(part.nbytes for part in parts)
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._next = 0
        self._readers: list[Reader] = []

    def stop(self) -> None:
        """Every thread ends soon. From any thread."""
        self._stopped.set()
        with self._lock:
            for reader in self._readers:
                reader.abort()

    def read_parts(self) -> None:
        """One thread's work: part after part until there is none."""
        reader = self._new_reader()
        try:
            buffers: SimpleQueue[memoryview] = SimpleQueue()
            for _ in range(_BUFFERS_PER_READER):
                # Page-aligned, as reads past the page cache want it.
                buffers.put(memoryview(mmap(-1, self._source.part_bytes)))
            while (part := self._take_part()) is not None:
                self._read(part, reader, buffers)
        except ReadAbortedError:
            if not self._stopped.is_set():
                raise
        finally:
            with self._lock:
                self._readers.remove(reader)
            reader.close()

    def _new_reader(self) -> Reader:
        reader = self._source.reader()
        with self._lock:
            self._readers.append(reader)
        return reader

    def _take_part(self) -> ByteRange | None:
        with self._lock:
            if self._stopped.is_set() or self._next == len(self._parts):
                return None
            part = self._parts[self._next]
            self._next += 1
            return part

    def _read(self, part: ByteRange, reader: Reader, buffers: SimpleQueue[memoryview]) -> None:
        try:
            buffer = buffers.get(timeout=2 * STALL_S)  # the fill gives up before
        except Empty:
            raise CacheError(f"{self._source.location}: the disk keeps every buffer") from None
        self._read_with_retries(part, reader, buffer[: part.nbytes])
        taken = self._filling.write(part.start, buffer[: part.nbytes], lambda: buffers.put(buffer))
        if not taken:
            raise self._filling.error or CacheError(f"{self._source.location}: the fill has ended")
        with self._lock:
            self._done += part.nbytes
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _read_with_retries(self, part: ByteRange, reader: Reader, into: memoryview) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                return reader.read_into(part.start, into)
            except SourceReadError as error:
                delay_s = self._delay_s(attempt, error, random.random)
                if delay_s is None:
                    raise
            if self._stopped.wait(delay_s):
                raise ReadAbortedError(self._source.location, "another part failed")


def _parts(missing: list[ByteRange], part_bytes: int) -> list[ByteRange]:
    """Cut on multiples of *part_bytes*, so that writes are aligned."""
    found = []
    for gap in missing:
        at = gap.start
        while at < gap.end:
            end = min(gap.end, (at // part_bytes + 1) * part_bytes)
            found.append(ByteRange(at, end))
            at = end
    return found
