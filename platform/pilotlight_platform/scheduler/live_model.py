"""A live model as the scheduler knows it: its record, who waits for it, how attaching it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_autoscaler import ModelSnapshot, Tier
from pilotlight_autoscaler.snapshot import UNKNOWN_COLD_START_S
from pilotlight_platform.schemas.model import ModelRecord

# A gateway repeats its demand every second while requests wait; what it has not repeated for
# this long is forgotten, so that a dead gateway leaves no demand behind.
DEMAND_TTL_S = 5.0
_RETRY_MAX_S = 30.0


@dataclass(slots=True)
class Demand:
    """Requests that wait in one gateway for one model."""

    queued: int
    since_s: float
    repeated_s: float


@dataclass(slots=True)
class Model:
    """A live model and what is known of its use; says when it has changed. Unix seconds."""

    record: ModelRecord
    touched: Callable[[str], None]
    demand: dict[str, Demand] = field(default_factory=dict)  # by gateway
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: str | None = None

    @property
    def revision_id(self) -> str:
        return self.record.revision.id

    def want(self, gateway: str, queued: int, now_s: float) -> int:
        """Note a gateway's queue; how many more wait there than it had said before."""
        known = self.demand.get(gateway)
        more = queued
        if queued == 0:
            if known is None:
                return 0
            del self.demand[gateway]
        elif known is None:
            self.demand[gateway] = Demand(queued, now_s, now_s)
        else:
            more = max(0, queued - known.queued)
            known.queued, known.repeated_s = queued, now_s
        self._touch()
        return more

    def expire(self, now_s: float) -> None:
        """Forget the demand of gateways that have not repeated it."""
        gone = [g for g, d in self.demand.items() if now_s - d.repeated_s >= DEMAND_TTL_S]
        for gateway in gone:
            del self.demand[gateway]
        if gone:
            self._touch()

    def attached(self) -> None:
        self.failures, self.retry_at_s, self.last_error = 0, 0.0, None
        self._touch()

    def attach_failed(self, error: str, now_s: float) -> None:
        """It is tried again after a second, and twice as long each time."""
        self.failures += 1
        self.retry_at_s = now_s + min(_RETRY_MAX_S, 0.5 * 2 ** min(self.failures, 10))
        self.last_error = error
        self._touch()

    def configure(self, record: ModelRecord) -> None:
        """The same revision with other settings."""
        self.record = record
        self._touch()

    @property
    def queued(self) -> int:
        return sum(demand.queued for demand in self.demand.values())

    def snapshot(self) -> ModelSnapshot:
        return ModelSnapshot(
            name=self.record.spec.name,
            revision_id=self.revision_id,
            nbytes=self.record.revision.nbytes,
            config=self.record.spec.autoscaling,
            queued=self.queued,
            oldest_queued_since_s=min((d.since_s for d in self.demand.values()), default=None),
            # From the disk: that what was baked is still in memory, the first start has to show.
            cold_start_s=self.record.predicted_load_s.get(Tier.DISK, UNKNOWN_COLD_START_S),
            retry_at_s=self.retry_at_s,
        )

    def _touch(self) -> None:
        self.touched(self.record.spec.name)
