"""The end of a load's disk tier, in a thread of its own: whoever waits may stop waiting."""

from __future__ import annotations

import threading

from pilotlight_loader.errors import LoadFailedError
from pilotlight_loader.pipeline.write_through import WriteThrough

JOIN_S = 30.0  # for what looks for a cancel every 50 ms; an fsync of a dead disk never does


class Finishing:
    """complete() by one thread, as often as it likes; then join()."""

    def __init__(self, write_through: WriteThrough) -> None:
        self._write_through = write_through
        self._lock = threading.Lock()
        self._finished = threading.Event()
        # A daemon: a process may end while its disk hangs.
        self._thread = threading.Thread(target=self._run, name="pilotlight-cache", daemon=True)

    def complete(self, timeout_s: float | None) -> None:
        """All bytes have arrived: let the disk tier have the rest. Raises TimeoutError, goes on."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
        bound_s = self._write_through.finish_s
        if not self._finished.wait(bound_s if timeout_s is None else min(timeout_s, bound_s)):
            if timeout_s is not None and timeout_s < bound_s:
                raise TimeoutError("all tensors are there, the disk tier is not complete yet")
            self._write_through.cancel()

    def join(self) -> None:
        """After a cancel, or its end. Raises LoadFailedError where a step hangs in the kernel."""
        if self._thread.ident is None:
            return
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            raise LoadFailedError(
                f"the disk did not end the cache's last write or fsync within {JOIN_S:g} s: look "
                "at that disk; the next load brings what it lacks"
            )

    def _run(self) -> None:
        try:
            self._write_through.finish()
        finally:
            self._finished.set()
