"""The seam to the disk tier: every part that arrives is offered to a cache as well."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import Protocol

from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.parts import Part

# A header has 100 MB at most. Whoever left out more than that did not want the whole object.
FILL_BYTES = 128 * 1024 * 1024
WRITE_S = 60.0  # for one such part to be on its way to the disk
FLUSH_S = 600.0  # for the ring's 512 MiB to be so, at 1 MB/s


class CacheEntry(Protocol):
    """One object on its way into the cache. Thread-safe."""

    def write(self, start: int, view: memoryview) -> Future[None]:
        """Take the bytes at *start*; *view* may be used again when the future is done.

        Never blocks for long. Once abandoned, every future is soon done.
        """

    def missing(self) -> Sequence[tuple[int, int]]:
        """The spans [start, end) that nobody has written yet."""

    def publish(self) -> None:
        """All bytes are there: make the object visible, atomically."""

    def abandon(self) -> None:
        """Nothing more comes; what is there may serve a later attempt. Idempotent."""


class Tier(Protocol):
    """The disk tier in the way of one load."""

    @property
    def sources(self) -> Mapping[str, ByteSource]:
        """Where to read each file from: the cache, where it has it."""

    def begin(self, file: str, /) -> CacheEntry | None:
        """None where *file* is in the cache already. Raises what keeps the cache from it."""


class Cache(Protocol):
    """What `load` needs of the disk tier; pilotlight_loader.Cache is one."""

    def tier(self, sources: Mapping[str, ByteSource], /) -> AbstractContextManager[Tier]: ...


class WriteThrough:
    """The entries of one transfer. A cache that fails is dropped, the load goes on."""

    def __init__(self, tier: Tier, sources: Mapping[str, ByteSource]) -> None:
        self._lock = threading.Lock()
        self._sources = sources
        self._pending: set[Future[None]] = set()
        self._entries: dict[str, CacheEntry] = {}
        self.error: BaseException | None = None  # the first that a cache raised
        for file in sources:
            try:
                entry = tier.begin(file)
            except Exception as error:  # a cache's own business, its disk above all
                self.error = self.error or error
                continue
            if entry is not None:
                self._entries[file] = entry

    def takes(self, part: Part) -> bool:
        """Whether write() is to be called for *part*."""
        with self._lock:
            return part.file in self._entries

    def write(self, part: Part, view: memoryview, release: Callable[[], None]) -> None:
        """Offer the part; *release* is called once, when *view* may be used again."""
        with self._lock:
            entry = self._entries.get(part.file)
        if entry is None:
            release()
            return
        try:
            future = entry.write(part.start, view)
        except Exception as error:  # as above
            self._drop(part.file, error)
            release()
            return
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(lambda done: self._written(part.file, done, release))

    def finish(self) -> None:
        """All parts have arrived: bring the little that lacks, publish what is complete."""
        with self._lock:
            pending = set(self._pending)
        unwritten = wait(pending, timeout=FLUSH_S).not_done
        with self._lock:
            entries = dict(self._entries)
        for file, entry in entries.items():
            try:
                if self.error is not None:
                    raise self.error
                if unwritten:
                    raise TimeoutError(f"{len(unwritten)} writes took over {FLUSH_S:g} s")
                if self._fill(entry, self._sources[file]):
                    entry.publish()
                else:
                    entry.abandon()
            except Exception as error:  # as above, or the source's
                self._drop(file, error)
        with self._lock:
            self._entries.clear()

    def abandon(self) -> None:
        """The transfer ended early. Idempotent."""
        with self._lock:
            files = tuple(self._entries)
        for file in files:
            self._drop(file, None)

    def _fill(self, entry: CacheEntry, source: ByteSource) -> bool:
        """Read what no tensor needed: the header, pads. False where that is more than a little."""
        spans = entry.missing()
        if sum(end - start for start, end in spans) > FILL_BYTES:
            return False
        with contextlib.closing(source.reader()) as reader:
            for begin, upto in spans:
                for start in range(begin, upto, source.part_bytes):
                    view = memoryview(bytearray(min(source.part_bytes, upto - start)))
                    reader.read_into(start, view)
                    entry.write(start, view).result(WRITE_S)
        return not entry.missing()

    def _written(self, file: str, done: Future[None], release: Callable[[], None]) -> None:
        with self._lock:
            self._pending.discard(done)
        release()
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._drop(file, error)

    def _drop(self, file: str, error: BaseException | None) -> None:
        with self._lock:
            self.error = self.error or error
            entry = self._entries.pop(file, None)
        if entry is not None:
            with contextlib.suppress(Exception):  # it has failed already
                entry.abandon()
