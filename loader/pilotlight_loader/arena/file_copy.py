"""Copy a file's bytes out of the page cache: from a mapping where that is safe, else by reads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_COPY, mmap
from pathlib import Path

from pilotlight_loader import pages
from pilotlight_loader.arena.read_lease import ReadLease
from pilotlight_loader.errors import CheckpointError, LoadCancelledError

# Per second of CPU: 14.3 GB in reads of 1 MiB, 15.4 of 4, 17.3 of 16. That is for a file whose
# page cache is in large pieces (chunk_file.py); in 4 KiB pages it is 9, however read.
CHUNK_BYTES = 16 * 1024 * 1024
# Of CPU time, for mapping: 0.1 ms of a chunk. What memcpy gains is 0.2 ms of it; mapped in huge
# pages it takes 0.02 ms, in small ones 0.3 and as much as a third again to unmap.
MAP_S_PER_BYTE = 6e-12


def copy_file(
    descriptor: int, into: memoryview, threads: int, cancel: threading.Event, path: Path
) -> None:
    """Bring the whole file, in several threads, which take its chunks in order.

    Raises CheckpointError where it is shorter than *into*, LoadCancelledError, OSError.
    """
    starts = iter(range(0, len(into), CHUNK_BYTES))  # next() of a range is atomic
    failed = threading.Event()
    mapped = _MappedFile(descriptor, len(into))

    def work() -> None:
        try:
            for start in starts:
                if failed.is_set():
                    return
                if cancel.is_set():
                    raise LoadCancelledError(f"cancelled while {path} was read")
                chunk = into[start : start + CHUNK_BYTES]
                if not mapped.copy(start, chunk):
                    _read_chunk(descriptor, chunk, start, path)
        except BaseException:
            failed.set()
            raise

    try:
        with ThreadPoolExecutor(threads, "pilotlight-fill") as pool:
            workers = [pool.submit(work) for _ in range(threads)]
            # Popped: a name for the one that fails, here in the error's own traceback, would be a
            # cycle, and hold the memory until the next collection.
            while workers:
                workers.pop().result()
    finally:
        mapped.close()


class _MappedFile:
    """The file as memory, for as long as nobody can change it. Thread-safe.

    The kernel's copy of a read is slower than memcpy: 16.1 to 17.6 GB/s a thread, memcpy from and
    to the same pages 20.8 to 21.0. That is worth it where the page cache has the file in huge
    pages: to map small ones costs more.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self._lock = threading.Lock()
        self._copying = 0
        self._lease = ReadLease.take(descriptor)
        self._mapped: mmap | None = None
        if self._lease is not None:
            try:
                # After the lease: from here on the file has as many bytes as it is mapped with.
                if os.fstat(descriptor).st_size >= nbytes:
                    self._mapped = mmap(descriptor, nbytes, access=ACCESS_COPY)
            except (OSError, ValueError):
                self.close()

    def copy(self, start: int, into: memoryview) -> bool:
        """Whether the bytes at *start* are in *into* now; else they are to be read."""
        mapped = self._enter()
        if mapped is None:
            return False
        try:
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped, start))
            # From the disk in this way, where an error is no signal. What follows takes 1 ms.
            began_s = time.thread_time()
            if not pages.populate(address, len(into)) or not self._is_unchanged():
                return False
            if time.thread_time() - began_s > MAP_S_PER_BYTE * len(into):
                self._leave_off()
            ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(into)), address, len(into))
            return True
        except OSError:
            return False  # a read will tell what is wrong
        finally:
            self._leave()

    def close(self) -> None:
        """Idempotent; when nobody copies any more."""
        self._mapped = None
        if self._lease is not None:
            self._lease.close()

    def _is_unchanged(self) -> bool:
        return self._lease is not None and self._lease.holds()

    def _leave_off(self) -> None:
        with self._lock:
            self._mapped = None

    def _enter(self) -> mmap | None:
        with self._lock:
            if self._mapped is not None and not self._is_unchanged():
                self._mapped = None
            if self._mapped is not None:
                self._copying += 1
            elif not self._copying:
                self.close()  # whoever wants to write need not wait for the end of the fill
            return self._mapped

    def _leave(self) -> None:
        with self._lock:
            self._copying -= 1
            if self._mapped is None and not self._copying:
                self.close()


def _read_chunk(descriptor: int, into: memoryview, start: int, path: Path) -> None:
    while into:
        count = os.preadv(descriptor, [into], start)
        if count == 0:
            raise CheckpointError(path, f"ends at byte {start}: it was cut while it was read")
        into, start = into[count:], start + count
