"""The disk tier: a directory of immutable files, shared by all processes of a node."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pilotlight_loader.cache.catalog import (
    CacheEntry,
    Removal,
    list_entries,
    prune_entries,
    remove_target,
)
from pilotlight_loader.cache.checking import Progress
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.cache.filling_start import start_filling, try_lead
from pilotlight_loader.cache.following import Following
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.inventory import stored_bytes
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.refs import read_ref
from pilotlight_loader.cache.space import as_loader_error
from pilotlight_loader.cache.tier import DiskTier
from pilotlight_loader.cache.verifying import verify_blob
from pilotlight_loader.errors import CacheError, LoadCancelledError
from pilotlight_loader.sources.source import ByteSource

# Half of the staging ring's 512 MiB: a slow disk can then hold at most half of the buffers, and
# the device is fed through the other half. At 1 GB/s it is a quarter of a second of writing.
IN_FLIGHT_BYTES = 256 * 1024 * 1024
# SHA-256 costs 0.6 s per GB beside the writing: with two, one sums up while the other writes.
# (On two cores with slow fresh pages one and two gave 0.5 GB/s on tmpfs, as bare pwrite() does.)
WRITER_THREADS = 2


class Cache:
    """Content-addressed, safe for many processes and for kill -9. On a local file system.

    OSErrors come out as CacheError or DiskFullError. The Cache itself holds nothing open.
    """

    def __init__(
        self,
        directory: str | Path,
        capacity_bytes: int | None = None,
        *,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        writer_threads: int = WRITER_THREADS,
        drop_pages: bool = False,
    ) -> None:
        """*drop_pages*: after a publish, leave its page cache to others (posix_fadvise)."""
        directory = Path(directory).absolute()
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self._files = CacheDirectory(directory)
        self._in_flight_bytes = in_flight_bytes
        self._writer_threads = writer_threads
        self._drop_pages = drop_pages
        with self._errors():
            self._files.create()

    def lease(self, identity: ObjectIdentity) -> Lease | None:
        """The published bytes of this version, not evicted while leased; None if not here."""
        return self._lease(identity, is_use=True)

    def begin(
        self,
        identity: ObjectIdentity,
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Filling | None:
        """Become the leader of this version; None if another lives, or it is published.

        What a dead leader left is read and compared first: *progress* counts that. Raises
        CacheFullError, DiskFullError, LoadCancelledError.
        """
        with self._errors(identity.nbytes):
            lock = try_lead(self._files, identity)
            if lock is None:
                return None
            try:
                if self._is_published(identity):
                    self._files.remove_fill(identity.key)
                    lock.release(unlink=True)
                    return None
                return start_filling(
                    self._files,
                    identity,
                    lock,
                    self.capacity_bytes,
                    progress=progress,
                    cancel=cancel,
                    in_flight_bytes=self._in_flight_bytes,
                    writer_threads=self._writer_threads,
                    drop_pages=self._drop_pages,
                )
            except BaseException:
                lock.release(unlink=True)
                raise

    def wait(
        self,
        identity: ObjectIdentity,
        timeout_s: float,
        cancel: threading.Event | None = None,
        *,
        progress: Progress | None = None,
    ) -> Lease | None:
        """Until it is published. None: its leader is gone, the time is over, or cancelled."""
        with self._errors():
            return Following(self._files, identity).wait(self.lease, timeout_s, cancel, progress)

    def claim(
        self,
        identity: ObjectIdentity,
        timeout_s: float,
        cancel: threading.Event | None = None,
        *,
        on_check: Progress | None = None,
        on_follow: Progress | None = None,
    ) -> Lease | Filling:
        """Whichever comes first: the published bytes, or the duty to fetch them.

        *on_check* is begin()'s progress, *on_follow* wait()'s. Raises LoadCancelledError,
        CacheError after *timeout_s*, and what begin() raises.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = self.lease(identity) or self.begin(identity, progress=on_check, cancel=cancel)
            if found is not None:
                return found
            if cancel is not None and cancel.is_set():
                raise LoadCancelledError(f"{identity.location}: cancelled while another fetched it")
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise CacheError(
                    f"{identity.location}: another process fetches it for more than "
                    f"{timeout_s:g} s; load without the cache, or end that process"
                )
            lease = self.wait(identity, remaining_s, cancel, progress=on_follow)
            if lease is not None:
                return lease

    def tier(
        self, sources: Mapping[str, ByteSource], *, cancel: threading.Event | None = None
    ) -> DiskTier:
        """This cache in the way of one load of *sources*, by file. Raises LoadCancelledError."""
        return DiskTier(self, sources, cancel=cancel)

    def entries(self) -> list[CacheEntry]:
        """Everything here, by location; versions that share a blob have an entry each."""
        with self._errors(), self._files.lock():
            return list_entries(self._files)

    def nbytes(self) -> int:
        """What the cache holds, each blob once, parts included."""
        with self._errors():
            return stored_bytes(self._files)

    def verify(
        self,
        digest: str,
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> int:
        """Read a blob again, from the disk, and compare each chunk; the answer is its bytes.

        A damaged one is removed with its refs, leased or not, so that nobody else gets it.
        Raises ChecksumError naming the first damaged chunk, CacheError if there is no such blob.
        """
        with self._errors():
            return verify_blob(self._files, digest, progress=progress, cancel=cancel)

    def remove(self, target: str) -> Removal:
        """Remove a digest, a location, or all that stand under a location; not what is in use."""
        with self._errors(), self._files.lock():
            return remove_target(self._files, target)

    def prune(
        self, capacity_bytes: int | None = None, unused_for_s: float | None = None
    ) -> Removal:
        """Evict the oldest above *capacity_bytes*, and all that was not used for so long."""
        with self._errors(), self._files.lock():
            return prune_entries(self._files, capacity_bytes, unused_for_s, time.time())

    def _is_published(self, identity: ObjectIdentity) -> bool:
        lease = self._lease(identity, is_use=False)
        if lease is None:
            return False
        lease.close()
        return True

    def _lease(self, identity: ObjectIdentity, *, is_use: bool) -> Lease | None:
        with self._errors():
            path = self._files.ref(identity.key)
            ref = read_ref(path)
            if ref is None or ref.identity != identity:
                return None
            return Lease.take(self._files.blob(ref.digest), ref, path, is_use=is_use)

    @contextmanager
    def _errors(self, needed_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise as_loader_error(error, self.directory, needed_bytes) from error
