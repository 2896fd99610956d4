"""The arena's directory: its lock, its size, and the memory file, of exactly the arena opened.

    <path>/arena.json   size, and how much of it has been touched; an arena exists when this does
    <path>/lock         one process at a time changes anything here
    <path>/memory       the bytes
    <path>/….filling, ….ready, ….dropped    see records.py

Everything is reached through an open directory: an arena that was destroyed and made again under
the same path is never mistaken for the old one. Every change is one rename, so a process may be
killed anywhere; nothing is synced, since memory does not outlive the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.arena.records import NEW, Records
from pilotlight_loader.errors import ArenaError

LOCK_TIMEOUT_S = 10.0  # it is held for a millisecond; whoever has it for longer was stopped
_VERSION = 1
_LOCK, _MEMORY, _STATE = "lock", "memory", "arena.json"
_MAX_STATE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ArenaState:
    """What all processes of an arena agree on."""

    nbytes: int
    touched_bytes: int  # from its beginning; only these are given out
    version: int = _VERSION


class Ledger:
    """The directory of one arena. Thread-safe."""

    def __init__(self, path: Path, directory: HeldFile) -> None:
        self.path = path
        self._directory = directory

    @classmethod
    def make(cls, path: Path, nbytes: int) -> None:
        """Lay an arena of *nbytes* out at *path*; what a killed maker left there is replaced.

        Raises ArenaError where there is one already.
        """
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            ledger = cls(path, _open_directory(path))
            with ledger.locked(create=True):
                if _STATE in os.listdir(ledger._directory.descriptor):
                    raise ArenaError(f"{path}: there is an arena already: open it, or destroy it")
                ledger._remove_all_but_lock()
                memory = HeldFile(_MEMORY, os.O_RDWR | os.O_CREAT | os.O_EXCL, ledger._descriptor)
                os.ftruncate(memory.descriptor, nbytes)
                ledger.write_state(ArenaState(nbytes, 0))
        except OSError as error:
            raise ArenaError(f"{path}: cannot be made: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises ArenaError where there is no arena, or it is somebody else's."""
        try:
            ledger = cls(path, _open_directory(path))
            ledger.state()
        except OSError as error:
            raise ArenaError(f"{path}: there is no arena: {error.strerror}") from error
        return ledger

    @classmethod
    def destroy(cls, path: Path) -> None:
        """Remove it; memory stays for as long as somebody maps it. Nothing there is no error."""
        try:
            ledger = cls(path, _open_directory(path))
            with ledger.locked(create=True):
                with suppress(FileNotFoundError):  # first, from here on there is no arena
                    os.unlink(_STATE, dir_fd=ledger._descriptor)
                ledger._remove_all_but_lock()
                os.unlink(_LOCK, dir_fd=ledger._descriptor)
            with suppress(OSError):  # somebody makes a new one in it already
                path.rmdir()
        except FileNotFoundError:
            return
        except ArenaError:
            if (path / _STATE).exists():  # else somebody else destroyed it at the same time
                raise
        except OSError as error:
            raise ArenaError(f"{path}: cannot be removed: {error.strerror}") from error

    @contextmanager
    def locked(self, *, create: bool = False) -> Iterator[Records]:
        """Be the only one, of all processes and threads, for a moment.

        Raises ArenaError where the arena has been destroyed, or the lock is not to be had.
        """
        # A file of one's own each time: threads are kept apart, and a forked child too.
        try:
            lock = HeldFile(_LOCK, os.O_RDWR | (os.O_CREAT if create else 0), self._descriptor)
        except FileNotFoundError as error:
            raise self._destroyed() from error
        if not lock.wait_exclusive(LOCK_TIMEOUT_S):
            raise ArenaError(
                f"{self.path}: somebody has held the lock for {LOCK_TIMEOUT_S:g} s: is a process "
                f"stopped? (fuser {self.path / _LOCK})"
            )
        try:
            if not lock.is_linked:
                raise self._destroyed()
            yield Records(self._descriptor)
        except OSError as error:
            raise ArenaError(f"{self.path}: {error.strerror}") from error
        finally:
            lock.unlock()
            lock.close()

    def state(self) -> ArenaState:
        """Raises ArenaError where the arena has been destroyed, or is of another version."""
        try:
            file = HeldFile(_STATE, os.O_RDONLY, self._descriptor)
        except FileNotFoundError as error:
            raise self._destroyed() from error
        try:
            state = ArenaState(**json.loads(os.pread(file.descriptor, _MAX_STATE_BYTES, 0)))
        except (ValueError, TypeError) as error:
            raise ArenaError(f"{self.path / _STATE} is broken: destroy the arena") from error
        finally:
            file.close()
        if state.version != _VERSION:
            raise ArenaError(
                f"{self.path}: an arena of version {state.version}, this is {_VERSION}: destroy it"
            )
        return state

    def write_state(self, state: ArenaState) -> None:
        """Only under the lock."""
        file = HeldFile(NEW, os.O_RDWR | os.O_CREAT | os.O_TRUNC, self._descriptor)
        os.pwrite(file.descriptor, json.dumps(asdict(state)).encode(), 0)
        file.close()
        os.rename(NEW, _STATE, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def memory(self) -> HeldFile:
        """The memory file, to be read and written."""
        try:
            return HeldFile(_MEMORY, os.O_RDWR, self._descriptor)
        except FileNotFoundError as error:
            raise self._destroyed() from error

    def close(self) -> None:
        """Idempotent."""
        self._directory.close()

    @property
    def _descriptor(self) -> int:
        return self._directory.descriptor

    def _destroyed(self) -> ArenaError:
        return ArenaError(f"{self.path}: there is no arena, or it has been destroyed")

    def _remove_all_but_lock(self) -> None:
        for name in os.listdir(self._descriptor):
            if name != _LOCK:
                os.unlink(name, dir_fd=self._descriptor)


def _open_directory(path: Path) -> HeldFile:
    directory = HeldFile(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    found = os.fstat(directory.descriptor)
    # /dev/shm is everybody's: another user may have made this directory, to give us weights.
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ArenaError(f"{path}: belongs to user {found.st_uid}, or others may write to it")
    return directory
