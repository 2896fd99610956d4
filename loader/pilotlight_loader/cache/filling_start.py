"""How a fill begins: its room, and what an earlier leader of the same version left."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from io import FileIO

from pilotlight_loader.cache.checking import Progress, damaged_chunks
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.eviction import drop_other_versions, make_room
from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.journal import Journal, JournalContent, read_journal
from pilotlight_loader.cache.locks import FileLock
from pilotlight_loader.cache.space import allocated_bytes, reserve

# Others look at a fill's lock by taking it shared for a moment.
_LEAD_TRIES = 5
_LEAD_STEP_S = 0.005


def try_lead(directory: CacheDirectory, identity: ObjectIdentity) -> FileLock | None:
    """The lock of who fills this version, or None while another has it. Raises OSError."""
    path = directory.fill_lock(identity.key)
    for _ in range(_LEAD_TRIES):
        lock = FileLock.try_take(path)
        if lock is not None:
            return lock
        time.sleep(_LEAD_STEP_S)
    return None


def start_filling(
    directory: CacheDirectory,
    identity: ObjectIdentity,
    lock: FileLock,
    capacity_bytes: int | None,
    *,
    progress: Progress | None,
    cancel: threading.Event | None,
    in_flight_bytes: int,
    writer_threads: int,
    drop_pages: bool,
) -> Filling:
    """With *lock*, which the fill then owns: room, what is there already, and the writers.

    Raises CacheFullError, DiskFullError, CacheError, LoadCancelledError, OSError.
    """
    part, believed = open_part(directory, identity, capacity_bytes)
    with ExitStack() as undo:
        undo.callback(part.close)
        journal, good = resume(
            directory, identity, part, believed, progress=progress, cancel=cancel
        )
        undo.callback(journal.close)
        filling = Filling(
            directory,
            identity,
            lock,
            part,
            journal,
            good,
            in_flight_bytes=in_flight_bytes,
            writer_threads=writer_threads,
            drop_pages=drop_pages,
        )
        undo.pop_all()
        return filling


def open_part(
    directory: CacheDirectory, identity: ObjectIdentity, capacity_bytes: int | None
) -> tuple[FileIO, Mapping[int, bytes]]:
    """The .part file at full size, and the checksums of the chunks that may be in it.

    The caller holds the fill's lock. Raises CacheFullError, DiskFullError, CacheError, OSError.
    """
    path, journal = directory.part(identity.key), directory.journal(identity.key)
    content = read_journal(journal)
    is_new = content is None or content.identity != identity or not path.exists()
    if content is None or is_new:
        path.unlink(missing_ok=True)
        content = JournalContent(identity, {})
    else:
        path.chmod(0o600)  # its leader may have been killed on the point of publishing it
    try:
        with directory.lock():
            drop_other_versions(directory, identity)
            make_room(
                directory,
                needed_bytes=identity.nbytes - (path.stat().st_size if path.exists() else 0),
                disk_bytes=max(0, identity.nbytes - allocated_bytes(path)),
                capacity_bytes=capacity_bytes,
                now_s=time.time(),
            )
            part = FileIO(path, "rb+", opener=_create_private)
            try:
                reserve(part.fileno(), identity.nbytes)
            except BaseException:
                part.close()
                raise
    except BaseException:
        if is_new:  # else it waits for more room, or for its turn to be evicted
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                journal.unlink(missing_ok=True)
        raise
    return part, content.checksums


def resume(
    directory: CacheDirectory,
    identity: ObjectIdentity,
    part: FileIO,
    believed: Mapping[int, bytes],
    *,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> tuple[Journal, Mapping[int, bytes]]:
    """A new journal of those chunks that are what the old one says: it was read again.

    Raises LoadCancelledError, OSError.
    """
    damaged = damaged_chunks(
        part.fileno(), identity.nbytes, believed, progress=progress, cancel=cancel
    )
    good = {index: checksum for index, checksum in believed.items() if index not in set(damaged)}
    return Journal(directory.journal(identity.key), JournalContent(identity, good)), good


def _create_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
