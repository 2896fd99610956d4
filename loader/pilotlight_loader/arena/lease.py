"""An extent in use: leased, or being filled."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch

from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.arena.ledger import Ledger
from pilotlight_loader.arena.memory import Memory
from pilotlight_loader.arena.records import mark_released
from pilotlight_loader.errors import ArenaError


class _LockedExtent:
    """A locked record and its bytes. The lock goes with the last of this and all its views."""

    def __init__(self, key: str, start: int, nbytes: int, memory: Memory, file: HeldFile) -> None:
        self.key = key
        self.start = start
        self.nbytes = nbytes
        self._memory = memory
        self._file: HeldFile | None = file

    def _view(self) -> ctypes.Array[ctypes.c_ubyte]:
        return self._memory.view(self.start, self.nbytes, self._held())

    def _held(self) -> HeldFile:
        if self._file is None:
            raise ValueError(f"{self.key!r}: the lease has ended")
        return self._file


class Lease(_LockedExtent):
    """What is in the arena under a key; neither evicted nor moved until close().

    Whatever was made of it (memory, tensors, mappings) goes on holding it after close().
    """

    @property
    def memory(self) -> memoryview:
        """All bytes, read-only."""
        return memoryview(self._view()).cast("B").toreadonly()

    def tensor(self) -> torch.Tensor:
        """All bytes, flat uint8, in the pages that a GPU registers: copy from it, never write."""
        return torch.frombuffer(self._view(), dtype=torch.uint8)

    def map_private(self) -> memoryview:
        """Map all bytes once more: writing to that makes a copy of the page, unseen by others.

        Raises ArenaError.
        """
        return self._memory.private(self.start, self.nbytes, self._held())

    def close(self) -> None:
        """Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            mark_released(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Filling(_LockedExtent):
    """An extent for this process alone to write; given up unless it is committed."""

    def __init__(
        self,
        key: str,
        start: int,
        nbytes: int,
        memory: Memory,
        file: HeldFile,
        ledger: Ledger,
    ) -> None:
        super().__init__(key, start, nbytes, memory, file)
        self._ledger = ledger

    @property
    def memory(self) -> memoryview:
        """All bytes, to be written."""
        return memoryview(self._view()).cast("B")

    def tensor(self) -> torch.Tensor:
        """All bytes, flat uint8, in the pages that a GPU registers."""
        return torch.frombuffer(self._view(), dtype=torch.uint8)

    def commit(self) -> Lease:
        """Publish it: all bytes have been written, and nobody writes to them any more.

        Raises ArenaError where the arena has been destroyed.
        """
        file = self._held()
        with self._ledger.locked() as records:
            records.publish(self.key, file)
        self._file = None
        return Lease(self.key, self.start, self.nbytes, self._memory, file)

    def abandon(self) -> None:
        """Free the key at once, and the memory when no view of it is left. Idempotent."""
        if self._file is None:
            return
        # Where that fails (the arena is closed, or destroyed) it is as if the process had died
        # here: the next one that looks for room sweeps the record away.
        with suppress(ArenaError, ValueError), self._ledger.locked() as records:
            records.drop(self.key, "filling", self.start)
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()
