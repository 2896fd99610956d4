"""A lease: a published blob that nobody evicts while it is held."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from pilotlight_loader.cache.refs import Ref, touch_ref
from pilotlight_loader.errors import CacheError

# The exclusive lock is held for as long as it takes to look, or to unlink one file.
_EVICTOR_TIMEOUT_S = 10.0
_EVICTOR_POLL_S = 0.002
_REPLACED_TRIES = 3


class Lease:
    """A shared flock on the blob itself; the kernel takes it back from a process that dies.

    On the blob, not on a file beside it: there is nothing to clean up, and fstat() tells whether
    the file that was locked is still the one that its name leads to. A child that was forked
    without exec shares the lease until either closes it. Close it when no tensor maps the file.
    """

    def __init__(self, path: Path, ref: Ref, ref_path: Path, file: FileIO, *, is_use: bool) -> None:
        self.path = path
        self.nbytes = ref.identity.nbytes
        self.digest = ref.digest
        self.checksums = ref.checksums
        self._ref_path = ref_path
        self._file = file
        self._is_use = is_use
        if is_use:
            touch_ref(ref_path)

    @classmethod
    def take(cls, path: Path, ref: Ref, ref_path: Path, *, is_use: bool = True) -> Self | None:
        """None if the blob is not there, or not of the size it was published with.

        *is_use*: count it for the order of eviction. Raises CacheError when an evictor holds it
        for 10 s, OSError.
        """
        for _ in range(_REPLACED_TRIES):
            try:
                file = FileIO(path, "rb")
            except FileNotFoundError:
                return None
            try:
                _lock_shared(file, path)
                status = os.fstat(file.fileno())
            except BaseException:
                file.close()
                raise
            if status.st_nlink > 0 and status.st_size == ref.identity.nbytes:
                return cls(path, ref, ref_path, file, is_use=is_use)
            file.close()  # evicted between open and flock: perhaps it was published anew
        return None

    def close(self) -> None:
        """Idempotent. What maps the file keeps its bytes, but the blob may be evicted."""
        if self._file.closed:
            return
        if self._is_use:  # what was leased for ten hours was last used now
            touch_ref(self._ref_path)
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)  # also for children that were forked meanwhile
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def try_lock_exclusive(path: Path) -> FileIO | None:
    """The blob at *path*, locked against leases, or None while it is leased or gone. OSError."""
    try:
        file = FileIO(path, "rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


def _lock_shared(file: FileIO, path: Path) -> None:
    deadline_s = time.monotonic() + _EVICTOR_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise CacheError(
                    f"{path}: locked by an evicting process for {_EVICTOR_TIMEOUT_S:g} s; "
                    "if it hangs, end it"
                ) from None
        time.sleep(_EVICTOR_POLL_S)
