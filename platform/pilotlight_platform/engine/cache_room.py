"""Room for keys and values: whose turn it is where the requests of a worker fill it.

The oldest request goes first: the youngest one pauses, and nobody starts before an older one that
waits. So the oldest always ends, and with it room comes back.
"""

from __future__ import annotations

from collections.abc import Hashable

# Of what a request takes at once, to be free before it starts: tokens come to all that run, and
# who starts into the last free byte is paused in the next step, its prefill lost.
_HEADROOM = 1.25


class CacheRoom:
    """What the lanes of a worker hold, and hold back. Belongs to the compute thread."""

    def __init__(self, limit_bytes: int | None) -> None:
        """*limit_bytes* of all lanes together; None: no limit."""
        self._limit_bytes = limit_bytes
        self._held_bytes: dict[Hashable, int] = {}
        self._oldest_waiting: dict[Hashable, int] = {}

    def note(self, lane: Hashable, nbytes: int, oldest_waiting: int | None) -> None:
        """*lane* holds so many bytes; *oldest_waiting*: arrival number of who is to start next."""
        self._held_bytes[lane] = nbytes
        if oldest_waiting is None:
            self._oldest_waiting.pop(lane, None)
        else:
            self._oldest_waiting[lane] = oldest_waiting

    def forget(self, lane: Hashable) -> None:
        """*lane* has ended."""
        self._held_bytes.pop(lane, None)
        self._oldest_waiting.pop(lane, None)

    def admits(self, arrival: int, nbytes: int) -> bool:
        """Whether request number *arrival* may take *nbytes* now. The oldest alone always may."""
        if self._limit_bytes is None:
            return True
        if any(oldest < arrival for oldest in self._oldest_waiting.values()):
            return False
        return not self._used_bytes or self._fits(nbytes)

    def spares(self, nbytes: int) -> bool:
        """Whether there are *nbytes* that nobody waits for."""
        return not self._oldest_waiting and self._fits(nbytes)

    @property
    def overfull(self) -> bool:
        """Whether somebody has to pause."""
        return self._limit_bytes is not None and self._used_bytes > self._limit_bytes

    def _fits(self, nbytes: int) -> bool:
        limit_bytes = self._limit_bytes
        return limit_bytes is None or self._used_bytes + nbytes * _HEADROOM <= limit_bytes

    @property
    def _used_bytes(self) -> int:
        return sum(self._held_bytes.values())
