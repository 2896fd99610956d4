"""The arena's bytes in this process: one shared mapping, and views that hold what they need."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from mmap import ACCESS_COPY, MADV_HUGEPAGE, PAGESIZE, mmap
from typing import Any

import torch

from pilotlight_loader import pages
from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.errors import ArenaError

_MAP_BYTES = 256 * 1024 * 1024  # 15 ms in one call, for which other threads cannot map anything


class Memory:
    """Maps a whole file, shared and writable; unmapped when the last view of it dies."""

    def __init__(self, file: HeldFile, nbytes: int) -> None:
        """Raises ArenaError where the file is shorter: reading past its end is a SIGBUS."""
        self._file = file
        self.nbytes = nbytes
        size = os.fstat(file.descriptor).st_size
        if size < nbytes:
            raise ArenaError(f"the arena's memory has {size} bytes, it was made with {nbytes}")
        try:
            self._mapped = mmap(file.descriptor, nbytes)
        except OSError as error:
            raise ArenaError(f"{nbytes} bytes cannot be mapped: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._mapped.madvise(MADV_HUGEPAGE)
        self.address: int = torch.frombuffer(self._mapped, dtype=torch.uint8).data_ptr()

    def view(self, start: int, nbytes: int, holding: object) -> ctypes.Array[ctypes.c_ubyte]:
        """These bytes; whatever is made of the array keeps *holding* and the mapping alive."""
        array: Any = (ctypes.c_ubyte * nbytes).from_buffer(self._mapped, start)
        array.holding = holding
        return array  # type: ignore[no-any-return]  # ctypes' arrays are not generic at run time

    def private(self, start: int, nbytes: int, holding: object) -> mmap:
        """Map these bytes a second time: shared until written to, then a copy of that page.

        *start* is on a page. The mapping keeps *holding* alive. Raises ArenaError.
        """
        try:
            mapped = _HoldingMap(self._file.descriptor, nbytes, access=ACCESS_COPY, offset=start)
        except OSError as error:
            raise ArenaError(f"{nbytes} bytes cannot be mapped: {error.strerror}") from error
        mapped.holding = holding
        return mapped

    def touch(self, start: int, end: int) -> None:
        """Give every page its memory, without the GIL. Both are on a page.

        Only for pages that nobody has written to. Raises ArenaError where there is no more.
        """
        try:
            if not pages.populate(self.address + start, end - start, write=True):
                # Promised before it is written to: a write without memory ends in SIGBUS.
                os.posix_fallocate(self._file.descriptor, start, end - start)
                torch.frombuffer(self._mapped, dtype=torch.uint8, count=end - start, offset=start)[
                    ::PAGESIZE
                ].zero_()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFAULT, errno.ENOMEM):
                raise ArenaError(
                    f"memory ran out at byte {start} of {self.nbytes}: somebody else took what was "
                    "free (ls -s /dev/shm); make the arena smaller"
                ) from error
            raise ArenaError(f"the arena cannot be touched: {error.strerror}") from error

    def map_pages(self, start: int, end: int) -> None:
        """Enter touched pages into this process's page table; later faults are then saved.

        Reading is enough, the entries of a shared mapping are writable at once: 2 GB of 4 KiB
        pages take 0.10 s, populated for writing 0.30 s, and by the faults of a copy into them
        0.6 s. Raises ArenaError.
        """
        try:
            for at in range(start, end, _MAP_BYTES):
                pages.populate(self.address + at, min(_MAP_BYTES, end - at))
        except OSError as error:
            raise ArenaError(f"the arena cannot be mapped: {error.strerror}") from error


class _HoldingMap(mmap):
    holding: object
