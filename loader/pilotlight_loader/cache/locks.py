"""Locks between processes: `flock`, which the kernel takes back from whoever dies.

All waiting is polling with a bound: a blocking flock() cannot be cancelled, and a thread that is
parked in one could not be joined.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pilotlight_loader.errors import CacheError

POLL_S = (
    0.02  # a follower's share of a core is then below 0.1 %, and 20 ms is no part of a download
)
_RELINK_TRIES = 100  # each needs another process to unlink the file between two of our calls


class FileLock:
    """An exclusive lock on a file of its own; threads exclude each other too.

    The file may be unlinked by who holds the lock, and by nobody else: whoever then gets the lock
    of the unlinked file sees that the path leads elsewhere, and tries again.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def try_take(cls, path: Path) -> Self | None:
        """The lock, or None while somebody else has it. Raises OSError."""
        for _ in range(_RELINK_TRIES):
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _leads_to(path, descriptor):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        return None

    @classmethod
    def take(cls, path: Path, timeout_s: float) -> Self:
        """Wait for the lock. Raises CacheError when it does not come free in time, OSError."""
        deadline_s = time.monotonic() + timeout_s
        while (lock := cls.try_take(path)) is None:
            if time.monotonic() >= deadline_s:
                raise CacheError(
                    f"{path}: held by another process for {timeout_s:g} s; if it hangs, end it"
                )
            time.sleep(POLL_S)
        return lock

    def release(self, *, unlink: bool = False) -> None:
        """Idempotent. *unlink* removes the file, which nobody can then be found holding."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if unlink:
                self._path.unlink(missing_ok=True)
            # Said aloud, as a child that was forked meanwhile has the same open file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether some FileLock of *path* is held now. Raises OSError.

    Looks by taking a shared lock for a moment: a try_take() in that moment fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
