"""Bring a checkpoint into the arena, once however many ask."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.file_copy import copy_file
from pilotlight_loader.arena.lease import Lease
from pilotlight_loader.errors import CheckpointError

# Memory is the limit: two threads copied 18 GB/s here, one 15, four on two cores no more than two.
DEFAULT_THREADS = min(4, len(os.sched_getaffinity(0)))
DEFAULT_TIMEOUT_S = 600.0  # for somebody else's fill: 100 GB from a disk of 0.2 GB/s


def fill(
    arena: Arena,
    key: str,
    nbytes: int,
    write: Callable[[memoryview], None],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    cancel: threading.Event | None = None,
) -> Lease:
    """Lease *key*; of all who ask at once one calls *write* with its memory, the others wait.

    If that one fails or dies, the next takes over. Raises what *write* raises; ArenaFullError;
    ArenaError after *timeout_s* of waiting; LoadCancelledError.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        lease = arena.wait(key, deadline_s - time.monotonic(), cancel)
        if lease is not None:
            return lease
        filling = arena.reserve(key, nbytes)
        if filling is not None:
            with filling:
                write(filling.memory)
                return filling.commit()


def fill_from_file(
    arena: Arena,
    key: str,
    path: Path,
    *,
    threads: int = DEFAULT_THREADS,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    cancel: threading.Event | None = None,
) -> Lease:
    """Lease *key*, and read all of *path* into it where it is not here.

    Raises CheckpointError where the file cannot be read or changes meanwhile, else as fill().
    """
    lease = arena.lease(key)
    if lease is not None:
        return lease
    stop = threading.Event() if cancel is None else cancel

    def write(memory: memoryview) -> None:
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if before.st_size != len(memory):
                raise CheckpointError(path, f"{before.st_size} bytes, expected {len(memory)}")
            copy_file(file.fileno(), memory, threads, stop, path)
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise CheckpointError(path, "was changed while it was read")

    try:
        return fill(arena, key, path.stat().st_size, write, timeout_s=timeout_s, cancel=cancel)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
