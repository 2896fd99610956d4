"""A fill: one object version on its way into the cache, written while a device is being fed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from io import FileIO
from types import TracebackType
from typing import Self

from pilotlight_loader.cache.chunk_writers import ChunkWriters, LentBuffer, Piece, split
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.journal import Journal
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.locks import FileLock
from pilotlight_loader.cache.publishing import publish_part
from pilotlight_loader.cache.ranges import ByteRange, RangeSet
from pilotlight_loader.cache.resumed_bytes import ResumedBytes
from pilotlight_loader.cache.space import as_loader_error
from pilotlight_loader.errors import CacheError, DiskFullError, LoaderError

# A disk that takes no byte for so long is dead, or as good as: the load goes on without it.
STALL_S = 30.0


class Filling:
    """Held by the one leader of this version on the node. Thread-safe.

    It never stands in the way of a load: when the disk fails, `error` is set, and from then on
    write() gives buffers back at once and does nothing else. Only publish() raises.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        identity: ObjectIdentity,
        lock: FileLock,
        part: FileIO,
        journal: Journal,
        checksums: Mapping[int, bytes],
        *,
        in_flight_bytes: int,
        writer_threads: int,
        drop_pages: bool,
    ) -> None:
        self.identity = identity
        self.error: LoaderError | None = None
        self._directory = directory
        self._lock = lock
        self._part = part
        self._journal = journal
        self._checksums = dict(checksums)
        self._limit = in_flight_bytes
        self._drop_pages = drop_pages
        self._in_flight = 0
        self._ended = False
        self._changed = threading.Condition()  # guards all of it
        self._resumed = ResumedBytes(part, checksums, identity.nbytes, identity.location)
        self._claimed = RangeSet()
        for span in self._resumed.ranges():
            self._claimed.add(span.start, span.end)
        self._writers = ChunkWriters(
            part.fileno(),
            identity.nbytes,
            threads=writer_threads,
            on_chunk=self._finish_chunk,
            on_error=self._fail,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()

    @property
    def is_open(self) -> bool:
        """Whether it neither failed nor ended."""
        with self._changed:
            return self.error is None and not self._ended

    def missing(self) -> list[ByteRange]:
        """What has yet to be written, in order; what write() took is not in it."""
        with self._changed:
            return self._claimed.gaps(0, self.identity.nbytes)

    def resumed(self) -> list[ByteRange]:
        """What was there at begin(), from an earlier leader; read_into() reads it."""
        return self._resumed.ranges()

    def read_into(self, start: int, into: memoryview) -> None:
        """Fill *into* from the resumed bytes. Raises ValueError outside them, CacheError."""
        try:
            self._resumed.read_into(start, into)
        except OSError as error:
            raise self._named(error) from error

    def write(
        self, start: int, data: memoryview, release: Callable[[], None], *, wait: bool = True
    ) -> bool:
        """Take bytes from *start* on, in any order and length; bytes already there are skipped.

        *data* is not copied: *release* is called exactly once, from a writer thread or from here,
        when it may be used again; it must not raise. While the limit of bytes in flight is
        reached, the caller waits, or with wait=False is refused. False: these bytes were not
        taken, as refused, failed or ended. The wait is bounded: a disk that takes nothing for
        STALL_S fails the fill. Raises ValueError for bytes outside the object.
        """
        view = memoryview(data).cast("B")
        end = start + len(view)
        if start < 0 or end > self.identity.nbytes:
            raise ValueError(f"bytes {start} to {end} of an object of {self.identity.nbytes}")
        with self._changed:
            taken = self._may_take(len(view), wait=wait)
            fresh = split(self._claimed.add(start, end)) if taken else []
            if fresh:
                self._lend(start, view, fresh, release)
        if not fresh:
            release()
        return taken

    def publish(self) -> Lease:
        """Finish, sync, and give the blob its name. The lease is taken before anybody can evict.

        Raises CacheError while bytes are missing (the fill stays open), else DiskFullError or
        CacheError for what went wrong, and the fill has ended.
        """
        with self._changed:
            if self._ended:
                raise CacheError(f"{self.identity.location}: the fill has ended")
            self._wait_for(lambda: self._in_flight == 0)
        if self.error is not None:
            self.abandon()
            raise self.error
        if missing := self.missing():
            raise CacheError(
                f"{self.identity.location}: {sum(gap.nbytes for gap in missing)} of "
                f"{self.identity.nbytes} bytes are missing, the first at {missing[0].start}"
            )
        if not self._stop():
            raise CacheError(f"{self.identity.location}: the fill has ended")
        try:
            lease = publish_part(
                self._directory,
                self.identity,
                self._part.fileno(),
                self._checksums,
                drop_pages=self._drop_pages,
            )
        except OSError as error:
            # Not kept: after a failed fsync the page cache may hold what the disk does not.
            self._close(keep=False)
            raise self._named(error) from error
        except BaseException:
            self._close(keep=True)
            raise
        self._close(keep=False)
        return lease

    def abandon(self, *, keep: bool = True) -> None:
        """End without publishing; finished chunks stay for the next leader if *keep*. Idempotent.

        Without *keep*, or when the disk was full, they are removed.
        """
        if self._stop():
            self._close(keep=keep and not isinstance(self.error, DiskFullError))

    def _may_take(self, nbytes: int, *, wait: bool) -> bool:
        """Whether a buffer of *nbytes* can go in now, or after a wait."""

        def has_room() -> bool:
            return self._in_flight == 0 or self._in_flight + nbytes <= self._limit

        if wait:
            self._wait_for(lambda: self._ended or has_room())
        return self.error is None and not self._ended and has_room()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        """Until *ready* or failed; each buffer that comes back renews the patience."""
        while self.error is None and not ready():
            if not self._changed.wait(STALL_S):
                stalled = f"{self._part.name}: the disk took nothing for {STALL_S:g} s"
                self.error = CacheError(stalled)
                self._writers.fail()
                self._changed.notify_all()

    def _lend(
        self,
        start: int,
        view: memoryview,
        fresh: list[tuple[int, ByteRange]],
        release: Callable[[], None],
    ) -> None:
        nbytes = len(view)
        self._in_flight += nbytes

        def give_back() -> None:
            with self._changed:
                self._in_flight -= nbytes
                self._changed.notify_all()
            release()

        buffer = LentBuffer(view, start, len(fresh), give_back)
        for chunk, part in fresh:
            self._writers.put(Piece(buffer, chunk, part))

    def _finish_chunk(self, index: int, checksum: bytes) -> None:
        self._journal.add(index, checksum)
        with self._changed:
            self._checksums[index] = checksum

    def _fail(self, error: Exception) -> None:
        with self._changed:
            if self.error is None:
                self.error = self._named(error)
            self._writers.fail()
            self._changed.notify_all()

    def _named(self, error: Exception) -> LoaderError:
        if isinstance(error, OSError):
            return as_loader_error(error, self._directory.root, self.identity.nbytes)
        return CacheError(f"{self.identity.location}: {type(error).__name__}: {error}")

    def _stop(self) -> bool:
        """No more writes; True for the one caller that has to close."""
        with self._changed:
            first, self._ended = not self._ended, True
            self._changed.notify_all()
        self._resumed.close()
        # Where a write hangs in the kernel, file and lock stay open until the process ends: the
        # lock is what says that somebody may still write.
        return first and self._writers.join(STALL_S)

    def _close(self, *, keep: bool) -> None:
        # What cannot be closed or removed stays for a later prune: nobody waits for it.
        for file in (self._journal, self._part):
            with contextlib.suppress(OSError):
                file.close()
        with contextlib.suppress(OSError):
            if not keep:
                self._directory.remove_fill(self.identity.key)
        with contextlib.suppress(OSError):
            self._lock.release(unlink=True)
