"""The host tier: touched shared memory that holds checkpoints for all workers of a node.

It is made once, when the node starts; processes may be killed at any moment without leaving an
extent taken or half a checkpoint behind.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pilotlight_loader.arena.extents import EXTENT_ALIGN, largest_run_bytes, place
from pilotlight_loader.arena.lease import Filling, Lease
from pilotlight_loader.arena.ledger import ArenaState, Ledger
from pilotlight_loader.arena.memory import Memory
from pilotlight_loader.arena.pieces import Piece, pieces
from pilotlight_loader.arena.records import Record, Records, check_key
from pilotlight_loader.arena.room import check_room
from pilotlight_loader.arena.touching import touch_pieces
from pilotlight_loader.errors import ArenaError, ArenaFullError, LoadCancelledError
from pilotlight_loader.layout import round_up

DEFAULT_THREADS = min(8, len(os.sched_getaffinity(0)))  # more gain little: memory is the limit
RECORDS_BYTES = 4 * 1024 * 1024  # beside the memory: a page for each of 1000 records
# How late a waiter may notice the end of a fill. The kernel wakes nobody when a lock's holder
# dies, and a fill of one of the smallest models takes ten times as long.
POLL_S = 0.01


class Arena:
    """One arena, mapped into this process. Thread-safe."""

    def __init__(self, ledger: Ledger, memory: Memory) -> None:
        self._ledger = ledger
        self._memory: Memory | None = memory
        self._mapped_bytes = 0  # from its beginning: these cost no page faults any more

    @classmethod
    def create(
        cls,
        path: Path,
        nbytes: int,
        *,
        threads: int = DEFAULT_THREADS,
        numa_node: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Make an arena at *path*, a directory on tmpfs, and touch it; removed if that fails.

        Others may open and use it from the first piece on. *numa_node* is the GPU's; *progress*
        gets bytes touched and in all. Raises ArenaError: no room (it says what to set), or there
        is one already.

        Linux 6.1 and later make huge pages of it wherever *path* is; on older ones a tmpfs with
        them (mount -t tmpfs -o huge=always,size=…) is worth its own mount.
        """
        if nbytes < 1:
            raise ValueError(f"an arena of {nbytes} bytes")
        nbytes = round_up(nbytes, EXTENT_ALIGN)
        check_room(path.parent, nbytes + RECORDS_BYTES)
        Ledger.make(path, nbytes)
        try:
            arena = cls.open(path)
            arena.touch(threads=threads, numa_node=numa_node, progress=progress)
        except BaseException:
            cls.destroy(path)
            raise
        return arena

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map an arena that another process has made. Raises ArenaError where there is none."""
        ledger = Ledger.open(path)
        return cls(ledger, Memory(ledger.memory(), ledger.state().nbytes))

    @classmethod
    def destroy(cls, path: Path) -> None:
        """Remove the arena, used or not; what is mapped lives on until it is let go. Idempotent."""
        Ledger.destroy(path)

    def touch(
        self,
        *,
        threads: int = DEFAULT_THREADS,
        numa_node: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Touch what has not been, as after the death of the one who created it.

        Raises ArenaError where memory runs out, or there is no such node.
        """
        memory = self._open()
        begun = self.touched_bytes
        for touched in touch_pieces(memory, begun, threads, numa_node):
            with self._ledger.locked():
                furthest = max(touched, self.touched_bytes)  # somebody else may touch it too
                self._ledger.write_state(ArenaState(memory.nbytes, furthest))
            if progress is not None:
                progress(touched, memory.nbytes)
        if begun <= self._mapped_bytes:
            self._mapped_bytes = memory.nbytes

    def map_pages(self) -> None:
        """Fill this process's page table, which a fill would else do: for a worker's start.

        0.05 s and 2 MiB of page table per GB of 4 KiB pages; next to nothing with huge ones.
        """
        touched = self.touched_bytes
        self._open().map_pages(self._mapped_bytes, touched)
        self._mapped_bytes = touched

    @property
    def path(self) -> Path:
        return self._ledger.path

    @property
    def nbytes(self) -> int:
        return self._open().nbytes

    @property
    def touched_bytes(self) -> int:
        """As many, from the beginning, can be given out: all, once create() or touch() is over."""
        return self._ledger.state().touched_bytes

    def pieces(self) -> tuple[Piece, ...]:
        """This process's addresses, in pieces that a GPU can register (and must not outlive).

        No single copy may cross from one piece into the next.
        """
        memory = self._open()
        return pieces(memory.address, memory.nbytes)

    def lease(self, key: str) -> Lease | None:
        """What was committed under *key*, if it is here."""
        with self._ledger.locked() as records:
            return self._leased(records, key)

    def reserve(self, key: str, nbytes: int) -> Filling | None:
        """An extent to fill; None where *key* is here, or somebody fills it: wait().

        What has been unused for longest is evicted for it. Raises ArenaFullError.
        """
        check_key(key)
        if nbytes < 1:
            raise ValueError(f"{key!r}: {nbytes} bytes to reserve")
        memory = self._open()
        with self._ledger.locked() as records:
            found = records.scan()
            if any(record.key == key and record.state != "dropped" for record in found):
                return None
            capacity = self.touched_bytes
            occupants = [record.occupant for record in found]
            placement = place(occupants, capacity, nbytes)
            if placement is None:
                raise ArenaFullError(_why_full(key, nbytes, found, capacity, memory.nbytes))
            for evicted in placement.evict:
                records.evict(evicted)
            extent = placement.extent
            file = records.reserve(key, extent.start, nbytes)
        filling = Filling(key, extent.start, nbytes, memory, file, self._ledger)
        if extent.end > self._mapped_bytes:
            memory.map_pages(extent.start, extent.end)
        return filling

    def wait(
        self, key: str, timeout_s: float, cancel: threading.Event | None = None
    ) -> Lease | None:
        """Wait for who fills *key*; None where nobody does, or does any more: reserve().

        Raises ArenaError when the time is over, LoadCancelledError when *cancel* is set.
        """
        cancel = threading.Event() if cancel is None else cancel
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._ledger.locked() as records:
                lease = self._leased(records, key)
                if lease is not None:
                    return lease
                if not records.is_filling(key):
                    return None
            if time.monotonic() >= deadline_s:
                raise ArenaError(f"{key!r} has been filling for more than {timeout_s:g} s")
            if cancel.wait(POLL_S):
                raise LoadCancelledError(f"cancelled while somebody else fills {key!r}")

    def remove(self, key: str) -> bool:
        """Forget what was committed under *key*; its memory is free when nobody leases it.

        False where there is none; what is being filled stays.
        """
        with self._ledger.locked() as records:
            for record in records.scan():
                if record.key == key and record.state == "ready":
                    return records.drop(key, "ready", record.start)
        return False

    def entries(self) -> tuple[Record, ...]:
        """All extents in use, by address."""
        with self._ledger.locked() as records:
            return tuple(sorted(records.scan(), key=lambda record: record.start))

    def close(self) -> None:
        """Unmap it, once the last lease and view are gone too. Idempotent."""
        self._memory = None
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _leased(self, records: Records, key: str) -> Lease | None:
        memory = self._open()
        found = records.lease(key)
        if found is None:
            return None
        record, file = found
        return Lease(record.key, record.start, record.nbytes, memory, file)

    def _open(self) -> Memory:
        if self._memory is None:
            raise ValueError(f"{self._ledger.path}: the arena is closed")
        return self._memory


def _why_full(
    key: str, nbytes: int, found: list[Record], capacity_bytes: int, total_bytes: int
) -> str:
    occupants = [record.occupant for record in found]
    used = sum(occupant.extent.nbytes for occupant in occupants)
    leased = sum(occupant.extent.nbytes for occupant in occupants if not occupant.evictable)
    untouched = total_bytes - capacity_bytes
    return (
        f"{key!r} needs {nbytes} bytes; of the arena's {total_bytes} are {capacity_bytes - used} "
        f"free, {leased} leased or being filled, {untouched} not touched yet, and at most "
        f"{largest_run_bytes(occupants, capacity_bytes)} can be had in one run"
    )
