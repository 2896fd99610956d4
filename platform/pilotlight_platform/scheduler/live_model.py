"""A live model as the scheduler knows it: its record, who waits for it, how attaching it went."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilotlight_autoscaler import ModelSnapshot
from pilotlight_platform.schemas.model import ModelRecord

# A gateway repeats its demand every second while requests wait; what it has not repeated for
# this long is forgotten, so that a dead gateway leaves no demand behind.
DEMAND_TTL_S = 5.0


@dataclass(slots=True)
class Demand:
    """Requests that wait in one gateway for one model."""

    queued: int
    since_s: float
    repeated_s: float


@dataclass(slots=True)
class Model:
    """A live model and what is known of its use. Times are Unix seconds."""

    record: ModelRecord
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
        if queued == 0:
            self.demand.pop(gateway, None)
        elif known is None:
            self.demand[gateway] = Demand(queued, now_s, now_s)
        else:
            more, known.queued, known.repeated_s = queued - known.queued, queued, now_s
            return max(0, more)
        return queued

    def snapshot(self, now_s: float) -> ModelSnapshot:
        self.demand = {
            gateway: demand
            for gateway, demand in self.demand.items()
            if now_s - demand.repeated_s < DEMAND_TTL_S
        }
        live = self.demand.values()
        return ModelSnapshot(
            name=self.record.spec.name,
            revision_id=self.revision_id,
            nbytes=self.record.revision.nbytes,
            config=self.record.spec.autoscaling,
            queued=sum(d.queued for d in live),
            oldest_queued_since_s=min((d.since_s for d in live), default=None),
            retry_at_s=self.retry_at_s,
        )
