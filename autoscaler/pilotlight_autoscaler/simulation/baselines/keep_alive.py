"""Baselines that differ in how long an idle replica stays and which one makes room."""

from __future__ import annotations

import math
from typing import Protocol

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.simulation.baselines.mirror import Known, Mirror, Room, idle

Window = tuple[float, float]  # ages since the last request ended: resident from, until
FOREVER: tuple[Window, ...] = ((0.0, math.inf),)


class KeepAliveRule(Protocol):
    """When a replica is resident although idle."""

    def windows(self, known: Known) -> tuple[Window, ...]:
        """In order, apart; one that begins at 0 is the keep-alive, the others prewarm."""

    def gap(self, known: Known, seconds: float) -> None:
        """An idle gap has ended."""


class ResidencyRule(Protocol):
    """Which idle replica is worth least."""

    def index(self, known: Known, now_s: float) -> float:
        """The lowest goes first."""

    def used(self, known: Known, now_s: float) -> None:
        """A request has come."""

    def evicted(self, known: Known, now_s: float) -> None:
        """It made room for another."""


class LeastRecentlyUsed:
    """Whoever was used last stays."""

    def index(self, known: Known, now_s: float) -> float:
        return known.last_end_s

    def used(self, known: Known, now_s: float) -> None:
        pass

    def evicted(self, known: Known, now_s: float) -> None:
        pass


class Baseline(Mirror):
    """At once from zero, up by the queue, down by *keep_alive*, evictions by *residency*."""

    def __init__(self, keep_alive: KeepAliveRule, residency: ResidencyRule | None = None) -> None:
        super().__init__()
        self._keep_alive = keep_alive
        self._residency = residency or LeastRecentlyUsed()

    def gap_closed(self, known: Known, now_s: float) -> None:
        if known.last_end_s > 0:
            self._keep_alive.gap(known, now_s - known.last_end_s)

    def asked(self, known: Known, now_s: float) -> None:
        self._residency.used(known, now_s)

    def consider(self, known: Known, now_s: float) -> None:
        config, live = known.snapshot.config, len(known.replicas)
        wanted = math.ceil(known.unfinished / config.target) if known.queued or live > 1 else live
        wanted = max(config.min_replicas, min(config.max_replicas, wanted))
        for _ in range(wanted - live):
            rule = Rule.LOAD if live else Rule.FROM_ZERO
            if not self.order_attach(known, now_s, rule, evict=known.queued > 0):
                break
        if not known.unfinished:
            self._rest(known, now_s, config.min_replicas)
        elif live > wanted:
            begin, end = self._keep_alive.windows(known)[0]
            self._drop_idle(known, now_s, wanted, keep_s=end if begin == 0 else 0.0)

    def _rest(self, known: Known, now_s: float, floor: int) -> None:
        """Hold, drop or prewarm by the age of the idle gap; then wait for the next change."""
        # Times are compared as sums: an edge is over at its own wake-up, whatever the rounding.
        windows, since_s = self._keep_alive.windows(known), known.last_end_s
        spans = [(since_s + begin, since_s + end) for begin, end in windows]
        open_s = max((begin for begin, end in spans if begin <= now_s < end), default=None)
        if open_s is None:
            self._drop_idle(known, now_s, floor, keep_s=0.0)
        elif open_s > since_s and not known.replicas and not known.unfinished:
            self.order_attach(known, now_s, Rule.PREWARM, evict=False)
        ahead_s = min((edge for span in spans for edge in span if edge > now_s), default=math.inf)
        if ahead_s < math.inf:
            self.look_again(known, ahead_s)

    def _drop_idle(self, known: Known, now_s: float, floor: int, keep_s: float) -> None:
        """Stop what has been idle for *keep_s* and is beyond *floor*."""
        for worker_id, replica in idle(known.replicas.items()):
            ends_s = (replica.idle_since_s or 0.0) + keep_s
            if now_s < ends_s < math.inf:
                self.look_again(known, ends_s)
            elif ends_s <= now_s and len(known.replicas) > floor:
                self.order_detach(known, worker_id)

    def victims(self, room: Room, known: Known, now_s: float) -> tuple[float, list[str]] | None:
        lacking_bytes, lacking_slots = known.snapshot.nbytes - room.free_bytes, 1 - room.free_slots
        idles = [each for each in room.replicas.values() if each.idle_since_s is not None]
        ranked = sorted(
            (self._residency.index(self.models[each.model], now_s), each.model, each)
            for each in idles
            if not self.models[each.model].unfinished
        )
        lost, gone = 0.0, []
        for value, _, replica in ranked:
            if lacking_bytes <= 0 and lacking_slots <= 0:
                break
            lost = max(lost, value)
            gone.append(replica.revision_id)
            lacking_bytes -= replica.nbytes
            lacking_slots -= 1
        return (lost, gone) if lacking_bytes <= 0 and lacking_slots <= 0 else None

    def _drop(self, worker_id: str, revision_id: str) -> None:
        known = self.models[self.rooms[worker_id].replicas[revision_id].model]
        self._residency.evicted(known, 0.0)
        super()._drop(worker_id, revision_id)
