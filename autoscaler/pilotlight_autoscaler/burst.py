"""How many requests wait together when a model is cold: the burst factor k."""

from __future__ import annotations

_SHARE_OF_NEWEST = 0.05


class Burst:
    """k: the waiting of all that arrive during one cold start, in units of the first one's.

    A request that comes *dt* after the first waits for the rest, 1 - dt / L of it.
    """

    __slots__ = ("began_s", "k", "waiting")

    def __init__(self, k: float = 1.0, began_s: float | None = None, waiting: float = 0.0) -> None:
        self.k = k
        self.began_s = began_s  # first request after a gap; None: no burst is being counted
        self.waiting = waiting

    def arrived(self, at_s: float, requests: int, cold_start_s: float, *, after_gap: bool) -> bool:
        """Count an arrival; says whether k has changed."""
        if self.began_s is not None and at_s < self.began_s + cold_start_s:
            self.waiting += requests * (1 - (at_s - self.began_s) / cold_start_s)
            return False
        changed = self.began_s is not None
        if changed:
            self.k += _SHARE_OF_NEWEST * (max(1.0, self.waiting) - self.k)
        self.began_s, self.waiting = (at_s, float(requests)) if after_gap else (None, 0.0)
        return changed
