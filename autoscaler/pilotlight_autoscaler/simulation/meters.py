"""Accounts of a simulation, kept as it runs and closed at the horizon of its trace."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from pilotlight_autoscaler.simulation.machines import Replica
from pilotlight_autoscaler.snapshot import ATTACHING


@dataclass(slots=True)
class Meters:
    """Counts, and microseconds of replicas times the share of a worker that each fills.

    What happens after ``horizon_us`` is left out, except the waiting of requests that came before.
    """

    horizon_us: int
    arrived: int = 0
    done: int = 0
    cold: int = 0  # arrived while no replica was ready
    sessions: int = 0  # began while nothing of the model ran or waited
    cold_sessions: int = 0
    waited_us: int = 0  # of requests, before a replica took them
    busy_us: float = 0.0
    idle_us: float = 0.0
    loading_us: float = 0.0
    pool_us: int = 0  # of workers that exist, used or not
    starts: int = 0
    stops: int = 0
    prewarms: int = 0
    prewarm_hits: int = 0
    decisions: int = 0
    ttft_us: array[int] = field(default_factory=lambda: array("q"))

    def loaded(self, replica: Replica, now_us: int) -> None:
        """It has been attaching until now."""
        self.loading_us += self._span_us(replica.since_us, now_us) * replica.model.share

    def idled(self, replica: Replica, now_us: int) -> None:
        """It has been idle until now."""
        since_us = replica.idle_since_us
        if since_us is not None:
            self.idle_us += self._span_us(since_us, now_us) * replica.model.share

    def used(self, replica: Replica) -> None:
        """It takes its first request after it was idle."""
        if replica.prewarmed:
            self.prewarm_hits += 1
            replica.prewarmed = False

    def served(self, replica: Replica, now_us: int) -> None:
        """It has been busy until now."""
        self.busy_us += self._span_us(replica.busy_since_us, now_us) * replica.model.share

    def worker(self, since_us: int, now_us: int) -> None:
        """A worker has existed until now."""
        self.pool_us += self._span_us(since_us, now_us)

    def rest(self, replica: Replica, now_us: int) -> None:
        """A replica that is still there at the end, whatever it does."""
        if replica.phase is ATTACHING:
            self.loaded(replica, now_us)
        elif replica.idle_since_us is None:
            self.served(replica, now_us)
        else:
            self.idled(replica, now_us)

    def _span_us(self, since_us: int, until_us: int) -> int:
        span_us = (until_us if until_us < self.horizon_us else self.horizon_us) - since_us
        return span_us if span_us > 0 else 0
