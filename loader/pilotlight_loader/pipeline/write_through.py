"""The seam to the disk tier: every part that arrives is offered to a cache as well."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait

from pilotlight_loader.errors import CacheError, LoadCancelledError, ObjectChangedError
from pilotlight_loader.pipeline.backlog import Backlog
from pilotlight_loader.pipeline.disk_tier import CacheEntry, Tier
from pilotlight_loader.pipeline.remainder import WRITE_S, Remainder
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import NoRetry, RetryDelays

# What finish() may read beside the tensors that were asked for: the header, of 100 MB at most, and
# pads. Whoever left out more than that, or more than an eighth of the object, did not want the
# whole of it.
FILL_BYTES = 128 * 1024 * 1024
FILL_SHARE = 1 / 8
SMALL_BYTES = 1024 * 1024  # of so little, anything may lack
FLUSH_S = 600.0  # for the ring's 512 MiB to be on the disk, at 1 MB/s
_CANCEL_POLL_S = 0.05


class WriteThrough:
    """The entries of one transfer. A cache that fails is dropped, the load goes on."""

    def __init__(
        self,
        tier: Tier,
        sources: Mapping[str, ByteSource],
        *,
        retry: RetryDelays | None = None,
        backlog: int = 1,
        complete_s: float = 0.0,
    ) -> None:
        """*retry* is for the reads of finish(), *backlog* the staging buffers it may hold.

        For so long finish() brings what the disk was too slow for; with 0 the next load does.
        """
        # By then finish() has given up what it waits for.
        self.finish_s = FLUSH_S + WRITE_S + complete_s
        self._complete_s = complete_s
        self._backlog = Backlog(backlog)
        self._retry = retry or NoRetry()
        self._cancelled = threading.Event()
        self._stale: set[str] = set()
        self._remainder: Remainder | None = None  # of finish(), while it reads
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
        """Whether write() is to be called for *part*: wanted, and not more than the disk keeps."""
        with self._lock:
            return part.file in self._entries and self._backlog.take(part)

    def write(self, part: Part, view: memoryview, release: Callable[[], None]) -> None:
        """After takes(), never blocking; *release* is called once *view* may be used again."""
        with self._lock:
            entry = self._entries.get(part.file)
        if entry is None:
            self._let_go(release)
            return
        try:
            future = entry.write(part.start, view)
        except Exception as error:  # as above
            self._drop(part.file, error)
            self._let_go(release)
            return
        with self._lock:
            if future is None:
                self._backlog.leave_out(part)
            else:
                self._pending.add(future)
        if future is None:
            release()
            return
        future.add_done_callback(lambda done: self._written(part.file, done, release))

    def finish(self) -> None:
        """All parts have arrived: bring what lacks, publish what is complete.

        Ends soon after cancel(), from any thread.
        """
        with self._lock:
            pending = set(self._pending)
        end_s = time.monotonic() + FLUSH_S
        stall_s = time.monotonic() + WRITE_S
        # A future cannot be waited for together with an event.
        while pending and not self._cancelled.is_set() and time.monotonic() < min(end_s, stall_s):
            left = wait(pending, timeout=_CANCEL_POLL_S).not_done
            if len(left) < len(pending):
                pending, stall_s = left, time.monotonic() + WRITE_S
        with self._lock:
            entries = dict(self._entries)
        for file, entry in entries.items():
            try:
                if self.error is not None:
                    raise self.error
                self._check_cancelled()
                if pending:
                    raise TimeoutError(f"the disk did not end its last {len(pending)} writes")
                is_complete = self._complete(file, entry)
                self._check_cancelled()
                if is_complete:
                    entry.publish()
                elif self._backlog.is_short_of(file):
                    raise self._too_slow(entry)
                else:
                    entry.abandon()
            except Exception as error:  # as above, or the source's
                self._drop(file, error)
        with self._lock:
            self._entries.clear()

    def cancel(self) -> None:
        """From any thread, at once: finish() gives up what it has not published."""
        self._cancelled.set()
        with self._lock:
            remainder = self._remainder
        if remainder is not None:
            remainder.stop()

    def failed(self, error: BaseException) -> None:
        """The transfer fails by *error*: what is there of a changed object is worth nothing."""
        if isinstance(error, ObjectChangedError):
            with self._lock:
                for file, source in self._sources.items():
                    if source.location == error.location:
                        self._stale.add(file)

    def abandon(self) -> None:
        """The transfer ended early. Idempotent."""
        with self._lock:
            files = tuple(self._entries)
        for file in files:
            self._drop(file, None)

    def _complete(self, file: str, entry: CacheEntry) -> bool:
        """Bring what lacks. False where nobody wanted it, or time was up."""
        spans = entry.missing()
        excused = self._backlog.left_out_bytes(file, spans) if self._complete_s > 0 else 0
        unwanted = _total(spans) - excused
        if unwanted > min(FILL_BYTES, max(SMALL_BYTES, int(entry.nbytes * FILL_SHARE))):
            return False
        if not spans:
            return True
        remainder = Remainder(file, entry, self._sources[file], spans, retry=self._retry)
        with self._lock:
            self._remainder = remainder
        try:
            if self._cancelled.is_set():  # it came while nobody could be told
                return False
            return remainder.bring(FLUSH_S if not excused else self._complete_s)
        finally:
            with self._lock:
                self._remainder = None

    def _too_slow(self, entry: CacheEntry) -> CacheError:
        return CacheError(
            f"the disk was slower than the link: it lacks {_total(entry.missing())} of "
            f"{entry.nbytes} bytes, which the next load brings; pull the model first, or give the "
            "cache a faster disk"
        )

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise LoadCancelledError("the load was left before its cache was complete")

    def _written(self, file: str, done: Future[None], release: Callable[[], None]) -> None:
        with self._lock:
            self._pending.discard(done)
        self._let_go(release)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._drop(file, error)

    def _let_go(self, release: Callable[[], None]) -> None:
        with self._lock:
            self._backlog.done()
        release()

    def _drop(self, file: str, error: BaseException | None) -> None:
        with self._lock:
            self.error = self.error or error
            entry = self._entries.pop(file, None)
        if entry is not None:
            keep = file not in self._stale and not isinstance(error, ObjectChangedError)
            with contextlib.suppress(Exception):  # it has failed already
                entry.abandon(keep=keep)


def _total(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)
