"""The arena's bytes in this process: one shared mapping, and views that hold what they need."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from mmap import MADV_HUGEPAGE, PAGESIZE, mmap
from typing import Any

import torch

from pilotlight_loader import pages
from pilotlight_loader.arena.aligned_map import map_aligned
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.errors import ArenaError
from pilotlight_loader.layout import round_up

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
            owner, self._mapped = map_aligned(mmap, file.descriptor, nbytes, 0, private=False)
        except OSError as error:
            raise ArenaError(f"{nbytes} bytes cannot be mapped: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a kernel without huge pages
            owner.madvise(MADV_HUGEPAGE)
        self.address: int = torch.frombuffer(self._mapped, dtype=torch.uint8).data_ptr()

    def view(self, start: int, nbytes: int, holding: object) -> ctypes.Array[ctypes.c_ubyte]:
        """These bytes; whatever is made of the array keeps *holding* and the mapping alive."""
        array: Any = (ctypes.c_ubyte * nbytes).from_buffer(self._mapped, start)
        array.holding = holding
        return array  # type: ignore[no-any-return]  # ctypes' arrays are not generic at run time

    def private(self, start: int, nbytes: int, holding: object) -> memoryview:
        """Map these bytes a second time: shared until written to, then a copy of that page.

        *start* is on EXTENT_ALIGN. The mapping keeps *holding* alive. Raises ArenaError.
        """
        # The whole extent: its last huge page can then be mapped as one, too.
        whole = round_up(nbytes, EXTENT_ALIGN)
        try:
            owner, mapped = map_aligned(
                _HoldingMap, self._file.descriptor, whole, start, private=True
            )
        except OSError as error:
            raise ArenaError(f"{nbytes} bytes cannot be mapped: {error.strerror}") from error
        owner.holding = holding
        return mapped[:nbytes]

    def touch(self, start: int, end: int) -> None:
        """Give every page its memory, without the GIL. Both are on a page.

        Only for pages that nobody has written to. Raises ArenaError where there is no more.
        """
        try:
            self._touch_huge(start, end)
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

    def _touch_huge(self, start: int, end: int) -> None:
        """Begin each huge page with a small one, and have the kernel make it whole.

        /dev/shm gives pages of 4 KiB by itself, unless it is mounted otherwise: mapping 0.6 GB of
        them for a forward pass takes 42 ms, of huge ones 1.2. Where it cannot be, they stay small.
        """
        for at in range(round_up(start, EXTENT_ALIGN), end - EXTENT_ALIGN + 1, EXTENT_ALIGN):
            if not pages.populate(self.address + at, PAGESIZE, write=True):
                return
        pages.collapse(self.address + start, end - start)

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
