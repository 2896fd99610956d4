"""Host memory that was touched before: loads into it pay no page faults, as into an arena."""

from __future__ import annotations

import mmap

from pilotlight_loader.devices.host_memory import anonymous


class TouchedMemory:
    """Gives pieces of one block, one after the other, until reset()."""

    def __init__(self, nbytes: int) -> None:
        self._block = anonymous(nbytes)
        for start in range(0, nbytes, mmap.PAGESIZE):
            self._block[start] = 0
        self._used = 0

    def allocate(self, nbytes: int) -> memoryview:
        """On a page. Raises MemoryError when the block is used up."""
        start, self._used = self._used, self._used + -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._used > len(self._block):
            raise MemoryError(f"{nbytes} bytes of touched memory: {len(self._block)} are used up")
        return memoryview(self._block)[start : start + nbytes]

    def reset(self) -> None:
        """What was given before is given again; nobody may use it any more."""
        self._used = 0
