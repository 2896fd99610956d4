"""The node's arena as one worker uses it: attach from it, and bring in what was attached."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Self

from pilotlight_loader import (
    Arena,
    ArenaFullError,
    BakedCheckpoint,
    LoadCancelledError,
    LoaderError,
    MappedCheckpoint,
    fill_from_file,
    map_lease,
)
from pilotlight_loader.arena.lease import Lease

logger = logging.getLogger(__name__)

_FILL_THREADS = 1  # beside an answer that may still be computed: never more than one core
# A fill looks at its cancellation after every 16 MiB that it maps or reads, and after every copy,
# of at most 0.2 s; one that is stuck in the disk is left behind.
_CANCEL_TIMEOUT_S = 10.0


class HostTier:
    """Whatever fails here is logged, and the page cache takes over. Thread-safe.

    It owns one thread at a time, which `leave` cancels, and `close` cancels and joins.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._lock = threading.Lock()  # guards all below
        self._asked: set[str] = set()  # keys in the arena, or tried once, since their attach
        self._filling: str | None = None
        self._fill: threading.Thread | None = None
        self._cancel = threading.Event()
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """The arena at *path*, mapped into this process; None where there is none."""
        try:
            arena = Arena.open(path)
            arena.map_pages()
        except (LoaderError, OSError) as error:  # on another node, or the platform stops
            logger.warning("arena_unused reason=%s", error)
            return None
        return cls(arena)

    def map(self, baked: BakedCheckpoint) -> tuple[MappedCheckpoint, Lease] | None:
        """*baked* as it is in the arena, and its lease, to be closed; None where it is not."""
        key = host_key(baked)
        try:
            lease = self._arena.lease(key)
            if lease is None:
                return None
            mapped = map_lease(lease, baked)
        except (LoaderError, OSError, ValueError) as error:  # ValueError: closed
            logger.warning("arena_attach_failed path=%s reason=%s", baked.path, error)
            return None
        with self._lock:
            self._asked.add(key)
        return mapped, lease

    def bring(self, baked: BakedCheckpoint) -> None:
        """Begin to copy *baked* into the arena, once per attach; not while another is copied."""
        key = host_key(baked)
        with self._lock:
            busy = self._fill is not None and self._fill.is_alive()
            if busy or self._closed or key in self._asked:
                return
            self._asked.add(key)
            cancel = threading.Event()
            fill = threading.Thread(
                target=self._copy,
                args=(key, baked, cancel),
                name="pilotlight-bring",
                daemon=True,  # stuck in a disk, it must not keep the process
            )
            try:
                fill.start()
            except RuntimeError as error:  # the process may have no more threads
                logger.warning("arena_fill_failed path=%s reason=%s", baked.path, error)
                return
            self._filling, self._cancel, self._fill = key, cancel, fill

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is copied; false on timeout."""
        with self._lock:
            fill = self._fill
        if fill is not None:
            fill.join(timeout_s)
        return fill is None or not fill.is_alive()

    def leave(self, baked: BakedCheckpoint) -> None:
        """*baked* is detached: do not go on copying it.

        Not waited for: whoever is evicted for the next model must not stand in its way when the
        disk is stuck. Until it has ended, nothing else is copied.
        """
        key = host_key(baked)
        with self._lock:
            self._asked.discard(key)
            if self._filling == key:
                self._cancel.set()

    def close(self) -> None:
        """Idempotent. What is attached stays mapped."""
        with self._lock:
            self._closed = True
            self._cancel.set()
        self.wait(_CANCEL_TIMEOUT_S)
        self._arena.close()

    def _copy(self, key: str, baked: BakedCheckpoint, cancel: threading.Event) -> None:
        try:
            lease = fill_from_file(
                self._arena, key, baked.path, threads=_FILL_THREADS, cancel=cancel
            )
            lease.close()
        except LoadCancelledError:
            pass
        except ArenaFullError as error:
            logger.info("arena_full path=%s reason=%s", baked.path, error)
        except Exception:  # only the next attach is slower
            logger.exception("arena_fill_failed path=%s", baked.path)


def host_key(baked: BakedCheckpoint) -> str:
    """Of exactly this file: a checkpoint that is baked again may get the same directory.

    A tuple of integers has the same hash in every process, unlike one of strings.
    """
    checksums = hash(baked.checksums) & 0xFFFF_FFFF_FFFF_FFFF
    return f"{baked.path.parent.name}/{baked.path.name}/{baked.nbytes}/{checksums:x}"
