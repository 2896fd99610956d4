"""When a read is tried again, and when it is made a second time beside a slow one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from pilotlight_loader.errors import LoaderError


class RetryDelays(Protocol):
    """How long to wait after a failed attempt; sources.retry.RetryPolicy is one."""

    def delay_s(
        self, attempt: int, error: LoaderError, random: Callable[[], float]
    ) -> float | None:
        """Seconds before the next attempt, after failed *attempt* (from 1); None: give up."""


@dataclass(frozen=True, slots=True)
class NoRetry:
    """Every error ends the load."""

    def delay_s(
        self, attempt: int, error: LoaderError, random: Callable[[], float]
    ) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """A part is slow after `factor` times the median of the others, never before `floor_s`."""

    factor: float = 3.0
    samples: int = 3  # before the median counts
    floor_s: float = 1.0  # a loaded disk takes so long for a part now and then, and recovers
    blind_s: float = 10.0  # while nothing has been read to compare with
    readers_share: float = 0.25  # of all readers, so that a slow link is not loaded twice

    def slow_after_s(self, durations_s: Sequence[float]) -> float:
        """The age at which a part is read a second time; *durations_s* of those that ended."""
        known = len(durations_s) >= self.samples
        usual_s = self.factor * median(durations_s) if known else self.blind_s
        return max(self.floor_s, usual_s)

    def at_once(self, readers: int) -> int:
        """How many parts may be read twice at the same time."""
        return max(1, int(readers * self.readers_share))
