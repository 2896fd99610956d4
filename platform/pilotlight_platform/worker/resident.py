"""A revision in a worker: attached, or about to be."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.cluster import AttachOrder, ReplicaPhase, ReplicaReport


@dataclass(slots=True)
class Resident:
    """Lives on the event loop only."""

    order: AttachOrder
    phase: ReplicaPhase = "attaching"
    since_s: float = field(default_factory=time.time)
    ongoing: int = 0
    idle_since_s: float | None = None
    replica: Replica | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: PlatformError | None = None
    lighting: asyncio.Task[None] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    served: int = 0  # requests that have ended in it
    served_s: float = 0.0  # what they took together

    @property
    def busy(self) -> bool:
        return self.ongoing > 0 or self.phase == "attaching"

    def began(self) -> None:
        """A request is here; it may have to wait for the weights."""
        self.ongoing += 1
        self.idle_since_s = None

    def ended(self, began_s: float | None) -> None:
        """*began_s*, monotonic: when it could begin; None if it was not answered to its end."""
        if began_s is not None:
            self.served += 1
            self.served_s += time.monotonic() - began_s
        self.ongoing -= 1
        if self.ongoing == 0:
            self.idle_since_s = time.time()

    def report(self) -> ReplicaReport:
        order = self.order
        staged = None if self.replica is None else self.replica.staged
        tier, staged_s = (None, None) if staged is None else staged
        return ReplicaReport(
            order.model,
            order.revision_id,
            order.nbytes,
            self.phase,
            self.since_s,
            self.ongoing,
            self.idle_since_s,
            tier,
            staged_s,
            self.served,
            self.served_s,
        )
