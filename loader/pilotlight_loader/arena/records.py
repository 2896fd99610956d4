"""The arena's records: one small file per extent, its lock says whether somebody is behind it.

A record's suffix is its state, and a rename changes it:

    new → <key>.filling → <key>.ready        reserve, commit
          <key>.filling | ready → <start>.dropped    abandoned, or removed while it is leased

Who fills holds an exclusive lock on the record, who leases a shared one. A record that is filling
or dropped, and that nobody locks, is litter: a process has died or let go. Its extent is free.
All of this happens under the arena's lock (ledger.py): a lock that could be had stays so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Literal

from pilotlight_loader.arena.extents import EXTENT_ALIGN, Extent, Occupant
from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.errors import ArenaError
from pilotlight_loader.layout import round_up

State = Literal["filling", "ready", "dropped"]
MAX_KEY_CHARS = 4096
MAX_RECORD_BYTES = 64 * 1024
NEW = "new"  # what is being written, by whoever holds the arena's lock
_STATES: dict[str, State] = {"filling": "filling", "ready": "ready", "dropped": "dropped"}


@dataclass(frozen=True, slots=True)
class Record:
    """One extent, as it was found."""

    key: str
    start: int
    nbytes: int  # of what is in it; the extent is rounded up
    state: State
    held: bool  # somebody fills or leases it
    last_used_ns: int  # since the epoch

    @property
    def occupant(self) -> Occupant:
        extent = Extent(self.start, round_up(self.nbytes, EXTENT_ALIGN))
        evictable = self.state == "ready" and not self.held
        return Occupant(self.key, extent, evictable, self.last_used_ns)


class Records:
    """The records of one open directory. Only for who holds the arena's lock."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def scan(self) -> list[Record]:
        """All extents in use; litter is swept away on the way."""
        found = []
        for name in os.listdir(self._directory):
            state = _STATES.get(name.rpartition(".")[2])
            if state is None:
                continue
            file = HeldFile(name, os.O_RDWR, self._directory)
            held = not file.try_exclusive()
            if held or state == "ready":
                found.append(_read(file, name, state, held))
            else:
                os.unlink(name, dir_fd=self._directory)
            file.unlock()  # a child that is forked just now would keep it
            file.close()
        return found

    def reserve(self, key: str, start: int, nbytes: int) -> HeldFile:
        """A record that is filling; its file is locked before anybody can see it."""
        file = HeldFile(NEW, os.O_RDWR | os.O_CREAT | os.O_TRUNC, self._directory)
        text = json.dumps({"key": key, "start": start, "nbytes": nbytes}).encode()
        os.pwrite(file.descriptor, text, 0)
        _sure(file.try_exclusive())
        self._rename(NEW, _name(key, "filling"))
        return file

    def publish(self, key: str, file: HeldFile) -> None:
        """From filling to leased by the one who filled it."""
        _mark_used(file)
        self._rename(_name(key, "filling"), _name(key, "ready"))
        _sure(file.try_shared())

    def lease(self, key: str) -> tuple[Record, HeldFile] | None:
        """The ready record of *key* under a shared lock."""
        name = _name(key, "ready")
        try:
            file = HeldFile(name, os.O_RDWR, self._directory)
        except FileNotFoundError:
            return None
        _sure(file.try_shared())
        _mark_used(file)
        return _read(file, name, "ready", held=True), file

    def is_filling(self, key: str) -> bool:
        """Whether a living process fills *key*."""
        try:
            file = HeldFile(_name(key, "filling"), os.O_RDWR, self._directory)
        except FileNotFoundError:
            return False
        filling = not file.try_exclusive()
        file.unlock()  # as in scan()
        return filling

    def evict(self, key: str) -> None:
        """Forget a ready record that nobody holds."""
        os.unlink(_name(key, "ready"), dir_fd=self._directory)

    def drop(self, key: str, state: State, start: int) -> bool:
        """Free the key at once, the extent when nobody holds it; False where there is none."""
        try:
            self._rename(_name(key, state), f"{start:x}.dropped")
        except FileNotFoundError:
            return False
        return True

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)


def check_key(key: str) -> None:
    """Raises ValueError for what cannot name a record."""
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise ValueError(f"a key has 1 to {MAX_KEY_CHARS} characters, this one has {len(key)}")


def mark_released(file: HeldFile) -> None:
    """A lease's end counts as its last use."""
    with contextlib.suppress(OSError):  # only the order of eviction is at stake
        _mark_used(file)


def _mark_used(file: HeldFile) -> None:
    now_ns = time.time_ns()  # the kernel's own "now" moves in steps of 4 ms
    os.utime(file.descriptor, ns=(now_ns, now_ns))


def _sure(locked: bool) -> None:
    # Fillers lock records that nobody else has seen; leases never wait for an exclusive lock.
    if not locked:
        raise ArenaError("somebody locks records without having the arena's lock")


def _name(key: str, state: State) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.{state}"


def _read(file: HeldFile, name: str, state: State, held: bool) -> Record:
    try:
        entry = json.loads(os.pread(file.descriptor, MAX_RECORD_BYTES, 0))
        key, start, nbytes = str(entry["key"]), int(entry["start"]), int(entry["nbytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArenaError(f"the record {name} is broken: destroy the arena") from error
    return Record(key, start, nbytes, state, held, os.fstat(file.descriptor).st_mtime_ns)
