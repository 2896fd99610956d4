"""A model in the mirror: its snapshot, its replicas counted, and what its past says of it."""

from __future__ import annotations

from math import inf

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.gaps import bin_of
from pilotlight_autoscaler.keep_alive import Prewarm, Windows, break_even_s, lead_s
from pilotlight_autoscaler.learned import Learned
from pilotlight_autoscaler.replica_view import ReplicaView
from pilotlight_autoscaler.residency import hit_rates, unknown_index
from pilotlight_autoscaler.snapshot import READY, ModelSnapshot

MIN_RESIDENCY_S = 1.0


class ModelView:
    """One model. Draining replicas serve no new request: they are not among the live ones."""

    __slots__ = (
        "_rates",
        "_rates_version",
        "alarm_s",
        "attaching",
        "auto",
        "cold_start_s",
        "config",
        "drains",
        "due_s",
        "forecast",
        "keep",
        "lead_s",
        "learned",
        "leaves_at",
        "live",
        "name",
        "occupied",
        "oldest_queued_since_s",
        "ongoing",
        "only",
        "queued",
        "ready",
        "rested",
        "rising",
        "rule",
        "share",
        "snapshot",
        "steps_until_s",
        "target",
        "want",
        "weight",
        "windows",
        "windows_version",
    )

    def __init__(self, snapshot: ModelSnapshot, learned: Learned) -> None:
        self.name = snapshot.name
        self.learned = learned
        self.live: dict[str, ReplicaView] = {}  # by worker: current revision, not draining
        self.ready = self.attaching = self.ongoing = 0
        self.share = 1.0  # of a worker that one replica takes
        # What the last look has found.
        self.want = self.keep = self.occupied = 0
        self.rule = Rule.REST
        self.leaves_at: dict[str, float] = {}  # by worker: when an idle surplus replica goes
        self.drains: tuple[str, ...] = ()  # workers whose busy replica is to be drained
        self.forecast: Prewarm | None = None  # the window that is open now
        self.due_s = inf
        self.alarm_s = inf  # when the watch comes to it, no later than it is due
        self.rising = False  # its load is above what its replicas are meant for
        self.rested = False  # its last gap was longer than any replica stays at least
        self.windows: Windows | None = None  # of this idle gap, the latest that were asked for
        self.windows_version = -1  # of what was learned, when they were worked out
        self._rates: list[float] = []  # of `_rates_version` of what was learned
        self._rates_version = -1
        self.tell(snapshot)

    def tell(self, snapshot: ModelSnapshot) -> None:
        """Take over what is said of it. Its queue changes more often than the rest: see there."""
        config = snapshot.config
        self.snapshot = snapshot
        self.config = config
        self.queued = snapshot.queued
        self.oldest_queued_since_s = snapshot.oldest_queued_since_s
        self.target = config.target
        self.auto = config.idle_timeout_s is None  # its gaps say how long a replica stays
        self.weight = config.keep_alive.cold_start_weight
        # Whether it has one replica or none, by its requests and gaps alone.
        self.only = config.max_replicas == 1 and not (config.min_replicas or config.schedule)
        self.measure()

    def adopt(self, learned: Learned) -> None:
        """Go by this from now on, and by nothing that was worked out before."""
        self.learned = learned
        self.windows, self._rates_version = None, -1
        self.measure()

    def measure(self) -> None:
        """Work out anew what follows from its cold starts and its settings."""
        self._count_step()
        starts, prior_s = self.learned.cold_starts, self.snapshot.cold_start_s
        starts.become(self.snapshot.nbytes)
        typical_s, slow_s = starts.typical_s(), starts.slow_s()
        self.cold_start_s = prior_s if typical_s is None else typical_s  # L
        self.lead_s = lead_s(prior_s if slow_s is None else slow_s)  # a forecast loads so far ahead
        self.windows_version = -1  # to be worked out again; `windows` are in force until then

    def step_down(self, floor: int, now_s: float) -> float:
        """Some of its replicas go, down to *floor* at most; says when the next ones may."""
        self.learned.stepped_at_s, self.learned.step_floor = now_s, floor
        self._count_step()
        return now_s + self.config.panic.window_s

    def _count_step(self) -> None:
        began_s = self.learned.stepped_at_s
        # When the latest step down is over; 0 if there was none.
        self.steps_until_s = began_s + self.config.panic.window_s if began_s > 0 else 0.0

    def count(self, worker_id: str, replica: ReplicaView, sign: int) -> None:
        """Add (1) or remove (-1) a live replica of the current revision."""
        if replica.phase is READY:
            self.ready += sign
        else:
            self.attaching += sign
        self.ongoing += sign * replica.ongoing
        if sign > 0:
            self.live[worker_id], replica.counted_by = replica, self
        else:
            del self.live[worker_id]
            replica.counted_by = None

    def reset_counts(self) -> None:
        for replica in self.live.values():
            replica.counted_by = None
        self.live = {}
        self.ready = self.attaching = self.ongoing = 0

    @property
    def demand(self) -> int:
        """Requests that wait or run."""
        return self.queued + self.ongoing

    @property
    def service_s(self) -> float:
        """What one request takes; 0 if not known."""
        return self.learned.service_s or self.snapshot.service_s

    @property
    def break_even_s(self) -> float:
        """T*: how long idling costs no more than the cold start it may save."""
        return break_even_s(self.cold_start_s, self.weight, self.learned.burst.k)

    @property
    def residency_s(self) -> float:
        """Younger than this, only a queue that has waited a cold start may evict a replica."""
        return max(MIN_RESIDENCY_S, self.cold_start_s)

    def index(self, age_s: float) -> float:
        """What keeping an idle replica is worth per worker-second, at this age of its idleness."""
        learned, snapshot = self.learned, self.snapshot
        priority = 2.0**snapshot.config.priority
        penalty = self.weight * self.cold_start_s * learned.burst.k * priority
        if not learned.gaps.observed:
            worth = unknown_index(
                age_s, self.break_even_s * priority, snapshot.requests_per_s, penalty
            )
            return worth / self.share
        if self._rates_version != learned.version:
            self._rates, self._rates_version = hit_rates(learned.gaps), learned.version
        return penalty * self._rates[bin_of(age_s)] / self.share
