"""An open file and the kernel's lock on it: both go with the process, however it dies."""

from __future__ import annotations

import fcntl
import os
import time

_FIRST_RETRY_S = 0.0005
_LAST_RETRY_S = 0.01


class HeldFile:
    """Owns a descriptor. The lock is let go by close(), by the last reference, or by death.

    flock, not fcntl's own locks: those are lost as soon as the process closes any other
    descriptor of that file, and do not keep two threads apart. A forked child shares the lock.
    """

    def __init__(self, name: str, flags: int, directory: int | None = None) -> None:
        """Open *name*, within the open *directory*. Raises OSError."""
        self._descriptor: int | None = None
        self._descriptor = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)

    def __del__(self) -> None:
        self.close()

    @property
    def descriptor(self) -> int:
        """Raises ValueError after close()."""
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    @property
    def is_linked(self) -> bool:
        """Whether the file still has a name."""
        return os.fstat(self.descriptor).st_nlink > 0

    def try_exclusive(self) -> bool:
        """Lock it against everybody; False where somebody has it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Lock it against exclusive locks, or turn an exclusive lock into such a one."""
        return self._try(fcntl.LOCK_SH)

    def wait_exclusive(self, timeout_s: float) -> bool:
        """Lock it against everybody; False where it was not to be had in time."""
        deadline_s = time.monotonic() + timeout_s
        retry_s = _FIRST_RETRY_S
        # A blocking flock cannot be bounded, and its holder may have been stopped.
        while not self.try_exclusive():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)
        return True

    def unlock(self) -> None:
        """For everybody who shares the lock, forked children too."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
