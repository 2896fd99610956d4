"""Copy a file's bytes out of the page cache: from a mapping where that is safe, else by reads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from mmap import ACCESS_COPY, mmap
from pathlib import Path

from pilotlight_loader import pages
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.read_lease import ReadLease
from pilotlight_loader.errors import CheckpointError, LoadCancelledError
from pilotlight_loader.layout import round_up

# What is read, or mapped, between two looks at whether to go on. Per second of CPU: 14.3 GB in
# reads of 1 MiB, 15.4 of 4, 17.3 of 16.
CHUNK_BYTES = 16 * 1024 * 1024
# What a thread copies from the mapping at once. memcpy writes past the processor's caches where
# a copy is much longer than they are, which saves reading what is overwritten; glibc says from
# where on, 240 MiB here. On two threads 2 GB took 111 ms in copies of 4 to 128 MiB, 92 of 256,
# 89 of 962. All spans are alike, so that no thread is left with the last one alone; the longest
# takes 0.1 s, for which whoever wants to write to the file waits.
SPAN_BYTES = 512 * 1024 * 1024
# Of CPU time, for mapping. memcpy gains 26e-12 on a read, and to unmap costs as much as a third
# again: mapped in huge pages it takes 1e-12, in pieces of 64 KiB 45e-12, in small pages 70e-12.
MAP_S_PER_BYTE = 16e-12


def copy_file(
    descriptor: int, into: memoryview, threads: int, cancel: threading.Event, path: Path
) -> None:
    """Bring the whole file, in several threads, which take its spans in order.

    Raises CheckpointError where it is shorter than *into*, LoadCancelledError, OSError.
    """
    span_bytes = _span_bytes(len(into), threads)
    starts = iter(range(0, len(into), span_bytes))  # next() of a range is atomic
    failed = threading.Event()
    errors: list[BaseException] = []
    mapped = _MappedFile(descriptor, len(into))

    def goes_on() -> bool:
        if cancel.is_set():
            raise LoadCancelledError(f"cancelled while {path} was read")
        return not failed.is_set()

    def work() -> None:
        try:
            for start in starts:
                span = into[start : start + span_bytes]
                if not mapped.copy(start, span, goes_on):
                    _read(descriptor, span, start, path, goes_on)
        except BaseException as error:
            failed.set()
            errors.append(error)

    # Not an executor's: the interpreter would wait at its end for one that is stuck in the disk.
    helpers = [
        threading.Thread(target=work, name=f"pilotlight-fill-{number}", daemon=True)
        for number in range(1, threads)
    ]
    try:
        for helper in helpers:
            helper.start()
        work()
    except BaseException:
        failed.set()
        raise
    finally:
        try:
            _join(helpers, failed)  # nobody writes to the memory any more
        finally:
            mapped.close()
    if errors:
        # Popped: a name for it here, in its own traceback, would be a cycle, and hold the memory
        # until the next collection.
        del errors[1:]
        raise errors.pop()


def _join(helpers: list[threading.Thread], failed: threading.Event) -> None:
    """Wait for those that were started; a Ctrl-C meanwhile makes them stop, and is raised then.

    The memory is given back after this: they must not write to it any more.
    """
    interrupted: KeyboardInterrupt | None = None
    for helper in helpers:
        while helper.ident is not None and helper.is_alive():
            try:
                helper.join()
            except KeyboardInterrupt as error:
                failed.set()
                interrupted = error
    if interrupted is not None:
        raise interrupted


def _span_bytes(nbytes: int, threads: int) -> int:
    """As many spans for each thread, as few as may be; on huge pages, as they are mapped."""
    spans = threads * -(-nbytes // (threads * SPAN_BYTES))
    return max(CHUNK_BYTES, round_up(-(-nbytes // max(1, spans)), EXTENT_ALIGN))


class _MappedFile:
    """The file as memory, for as long as nobody can change it. Thread-safe.

    The kernel's copy of a read is slower than memcpy, by a quarter on two threads. That is worth it
    where the page cache has the file in huge pages: to map small ones costs more.
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

    def copy(self, start: int, into: memoryview, goes_on: Callable[[], bool]) -> bool:
        """Whether the bytes at *start* are in *into* now; else they are to be read.

        *goes_on* is asked before each chunk is mapped. Raises what that raises.
        """
        mapped = self._enter()
        if mapped is None:
            return False
        try:
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped, start))
            if not self._map(address, len(into), goes_on):
                return False
            # A process that is frozen in here until the lease is taken from it (45 s), while the
            # file is cut, dies of it. Nothing of it is used: the extent was not committed, and
            # who asks next fills it. A file that was rewritten has another time of its change.
            ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(into)), address, len(into))
            return True
        except OSError:
            return False  # a read will tell what is wrong
        finally:
            self._leave()

    def _map(self, address: int, nbytes: int, goes_on: Callable[[], bool]) -> bool:
        """Whether all of it is mapped, the file unchanged, and it was worth it.

        From the disk in this way, where an error is no signal; what follows takes 0.1 s at most.
        """
        spent_s = 0.0
        for at in range(0, nbytes, CHUNK_BYTES):
            if not goes_on():
                return False
            if not self._is_unchanged():
                self._leave_off()  # whoever wants to write need not wait for the reads
                return False
            began_s = time.thread_time()
            if not pages.populate(address + at, min(CHUNK_BYTES, nbytes - at)):
                return False
            spent_s += time.thread_time() - began_s
            if spent_s > MAP_S_PER_BYTE * nbytes:
                self._leave_off()
                return False
        return self._is_unchanged()

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


def _read(
    descriptor: int, into: memoryview, start: int, path: Path, goes_on: Callable[[], bool]
) -> None:
    while into and goes_on():
        count = os.preadv(descriptor, [into[:CHUNK_BYTES]], start)
        if count == 0:
            raise CheckpointError(path, f"ends at byte {start}: it was cut while it was read")
        into, start = into[count:], start + count
