"""Waiting for another process that fetches the same version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pilotlight_loader.cache.checking import Progress
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.inventory import present_bytes
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.locks import POLL_S, is_held

_PROGRESS_EVERY_S = 0.5


class Following:
    """Of one version. A leader is alive while it holds the fill's lock, be it frozen.

    One that is stopped (SIGSTOP, a debugger, a disk that hangs) keeps the lock: nobody can take
    over and write beside it, and those who wait give up when their time is over. What it has when
    it goes on is its own .part file still. One that died has no lock.
    """

    def __init__(self, directory: CacheDirectory, identity: ObjectIdentity) -> None:
        self._directory = directory
        self._identity = identity

    def wait(
        self,
        lease: Callable[[ObjectIdentity], Lease | None],
        timeout_s: float,
        cancel: threading.Event | None,
        progress: Progress | None,
    ) -> Lease | None:
        """Until *lease* gives one. None: its leader is gone, the time is over, or cancelled.

        Raises OSError.
        """
        deadline_s = time.monotonic() + timeout_s
        cancel = cancel or threading.Event()
        told_s = 0.0
        while not cancel.is_set():
            found = lease(self._identity)
            if found is not None:
                return found
            alive = is_held(self._directory.fill_lock(self._identity.key))
            now_s = time.monotonic()
            if not alive:
                return lease(self._identity)  # published between the two looks, or not at all
            if now_s >= deadline_s:
                return None
            if progress is not None and now_s - told_s >= _PROGRESS_EVERY_S:
                told_s = now_s
                present = present_bytes(self._directory, self._identity.key)
                progress(present, self._identity.nbytes)
            cancel.wait(min(POLL_S, deadline_s - now_s))
        return None
