"""What the disk tier still lacks at a load's end: read in parallel, written as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait

from pilotlight_loader.pipeline.disk_tier import CacheEntry
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.fetch import Fetch
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import RetryDelays

# Each with one part in memory, 64 MiB in all; 0.7 GB/s from an object store, more than a disk
# takes that was slower than the link.
MAX_READERS = 8
WRITE_S = 60.0  # for one part to be on its way to the disk, and to get there
_POLL_S = 0.05


class Remainder:
    """Of one object. bring() once, in one thread; stop() from any."""

    def __init__(
        self,
        file: str,
        entry: CacheEntry,
        source: ByteSource,
        spans: Sequence[tuple[int, int]],
        *,
        retry: RetryDelays | None,
    ) -> None:
        """*spans* are what *entry* lacks of *source*."""
        self._entry = entry
        self._error: BaseException | None = None
        parts = _parts(file, spans, source.part_bytes)
        self._landing = _EntryLanding(entry, len(parts))
        self._fetch = Fetch(
            parts,
            {file: source},
            self._landing,
            on_error=self._fail,
            readers=min(source.parallel, MAX_READERS),
            retry=retry,
        )
        self._fetch.allow(len(parts))

    def bring(self, timeout_s: float) -> bool:
        """Whether the entry is complete now. Raises what a source or the entry raised."""
        try:
            self._fetch.start()
            self._landing.ended.wait(timeout_s)
        finally:
            self._fetch.stop()
            self._fetch.join()
        if self._error is not None:
            raise self._error
        return not self._entry.missing()

    def stop(self) -> None:
        """At once: bring() ends soon."""
        self._fetch.stop()
        self._landing.ended.set()

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._landing.ended.set()


class _EntryLanding:
    """Parts go into an entry; a reader goes on when the disk has its part."""

    in_place = False

    def __init__(self, entry: CacheEntry, parts: int) -> None:
        self.ended = threading.Event()
        self._entry = entry
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._left = parts

    def take(self) -> _Buffer | None:
        return None if self._closed.is_set() else _Buffer(self)

    def close(self) -> None:
        self._closed.set()

    def write(self, start: int, view: memoryview) -> None:
        """Raises TimeoutError, and what the entry raises."""
        deadline_s = time.monotonic() + WRITE_S
        while (written := self._entry.write(start, view)) is None:
            self._check_time(deadline_s)
            if self._closed.wait(_POLL_S):
                return
        while not wait([written], _POLL_S).done:
            self._check_time(deadline_s)
            if self._closed.is_set():
                return  # whoever abandons the entry has it let go of the view
        written.result()
        with self._lock:
            self._left -= 1
            if not self._left:
                self.ended.set()

    def _check_time(self, deadline_s: float) -> None:
        if time.monotonic() >= deadline_s:
            raise TimeoutError(f"the disk took nothing for {WRITE_S:g} s")


class _Buffer:
    def __init__(self, landing: _EntryLanding) -> None:
        self._landing = landing
        self._view = memoryview(b"")

    def view(self, part: Part, *, apart: bool) -> memoryview:
        self._view = memoryview(bytearray(part.nbytes))
        return self._view

    def landed(self, part: Part) -> None:
        self._landing.write(part.start, self._view)

    def give_back(self) -> None:
        self._view = memoryview(b"")


def _parts(file: str, spans: Sequence[tuple[int, int]], part_bytes: int) -> list[Part]:
    """Cut on multiples of *part_bytes*, so that writes are aligned."""
    found: list[Part] = []
    for begin, upto in spans:
        at = begin
        while at < upto:
            end = min(upto, (at // part_bytes + 1) * part_bytes)
            found.append(Part(len(found), 0, file, at, end, 0))
            at = end
    return found
