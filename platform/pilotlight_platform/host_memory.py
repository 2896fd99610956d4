"""The arena of a platform: made and touched before its workers start, gone when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pilotlight_loader import Arena, ArenaError, LoadCancelledError
from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings


@contextmanager
def host_memory(
    settings: Settings, stop: threading.Event, on_progress: Callable[[str], None]
) -> Iterator[None]:
    """Only for who holds the home's lock: what is at the path was left by a killed platform.

    Raises MachineError where there is no room. When *stop* is set, there is no arena.
    """
    path = settings.arena_path
    if not settings.arena_bytes:
        with suppress(ArenaError):  # it only keeps memory from others
            Arena.destroy(path)
        yield
        return

    def touched(_done: int, _total: int) -> None:
        if stop.is_set():
            raise LoadCancelledError("stopped while memory was touched")

    on_progress(f"touching {settings.arena_bytes / 2**30:.3g} GiB of memory")
    try:
        Arena.destroy(path)
        with suppress(LoadCancelledError):
            Arena.create(path, settings.arena_bytes, progress=touched).close()
    except ArenaError as error:
        raise MachineError(f"{error} (PILOTLIGHT_ARENA_BYTES; 0: none)") from error
    try:
        yield
    finally:
        with suppress(ArenaError):  # the next start removes it
            Arena.destroy(path)
