"""The kernel's lease on a file that is read: nobody can change it before the reader lets go. Linux.

To read a mapped file that somebody cuts meanwhile ends the process (SIGBUS). Under a read lease
nobody has the file open for writing, and who opens it for that, or cuts it, is made to wait, for
45 s (/proc/sys/fs/lease-break-time), until the holder has seen it: fcntl(2), F_SETLEASE.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
from pathlib import Path
from typing import Self

# The holder looks every few milliseconds, or after as long as 16 MiB take from a slow disk.
MIN_BREAK_S = 10
_BREAK_TIME = Path("/proc/sys/fs/lease-break-time")


class ReadLease:
    """On an open descriptor, which its owner closes later."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, descriptor: int) -> Self | None:
        """None where it is not to be had.

        As where somebody may write to the file, it is another user's, or its file system has no
        leases.
        """
        try:
            if int(_BREAK_TIME.read_text()) < MIN_BREAK_S:
                return None
            # Told by a signal that is ignored by default, where SIGIO would end the process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except (OSError, ValueError):
            return None
        return cls(descriptor)

    def holds(self) -> bool:
        """False once somebody waits for its end, or it has ended."""
        return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(OSError):  # it has ended
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
