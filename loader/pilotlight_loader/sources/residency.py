"""Is a range of a file in the page cache?"""

from __future__ import annotations

import ctypes
import mmap
import threading

from pilotlight_loader import pages


class Residency:
    """Asks mincore, through a mapping of the whole file that nobody touches. Thread-safe.

    Not preadv2(RWF_NOWAIT): on Linux 6 a miss starts the read. 256 probes of a cold file brought
    259 of its pages in (mincore: none), and the next look would have called it cached.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._lock = threading.Lock()
        self._mapped: mmap.mmap | None = None

    def is_cached(self, descriptor: int, start: int, nbytes: int) -> bool:
        """Whether half of the range is, by one page in 2 MiB; True where the kernel won't tell.

        It tells only the file's owner or who may write it: to others everything looks cached.
        """
        if nbytes == 0:
            return True
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        with self._lock:  # close() may not pull the mapping away
            try:
                if self._mapped is None:
                    self._mapped = mmap.mmap(descriptor, self._nbytes, access=mmap.ACCESS_COPY)
                base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapped))
                resident = pages.resident_bytes(base + first, start + nbytes - first)
            except (OSError, ValueError):  # ValueError: the file is shorter by now
                return True
        return 2 * resident >= nbytes

    def close(self) -> None:
        with self._lock:
            if self._mapped is not None:
                self._mapped.close()
                self._mapped = None
