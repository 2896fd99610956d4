"""What is remembered of one model from decision to decision. Learned, not configured."""

from __future__ import annotations

from collections import deque

from pilotlight_autoscaler.burst import Burst
from pilotlight_autoscaler.cold_starts import ColdStarts
from pilotlight_autoscaler.first_tokens import FirstTokens
from pilotlight_autoscaler.gaps import GapHistogram
from pilotlight_autoscaler.guard import Guard
from pilotlight_autoscaler.state import (
    BurstState,
    ColdStartsState,
    FirstTokensState,
    GapsState,
    GuardState,
    LoadState,
    ModelState,
    PanicState,
    PrewarmState,
    StepState,
)
from pilotlight_autoscaler.windows import LoadWindow, SlidingMax

HIT_SHARE_OF_NEWEST = 0.2
_SERVICE_SHARE_OF_NEWEST = 0.1


class Learned:
    """One model's gaps, cold starts, burst factor, load and what is going on with it."""

    __slots__ = (
        "burst",
        "cold_starts",
        "first_due",
        "first_tokens",
        "gaps",
        "granted",
        "guard",
        "hit_rate",
        "idle_since_s",
        "load",
        "panic_replicas",
        "panic_until_s",
        "peak",
        "prewarm_retry_s",
        "prewarm_until_s",
        "rising_since_s",
        "rule",
        "service_s",
        "step_floor",
        "stepped_at_s",
        "version",
    )

    def __init__(self, stable_window_s: float = 60.0) -> None:
        self.gaps = GapHistogram()
        self.cold_starts = ColdStarts()
        self.first_tokens = FirstTokens()
        self.burst = Burst()
        self.guard = Guard()
        self.load = LoadWindow(stable_window_s)
        self.peak = SlidingMax()
        self.hit_rate = 1.0  # of prewarm windows: a request came in them
        self.service_s = 0.0  # 0: not known
        self.idle_since_s: float | None = None  # no request since; None: one is here
        self.panic_until_s = 0.0
        self.panic_replicas = 0
        self.prewarm_until_s: float | None = None  # a replica that nobody asked for stays so long
        self.prewarm_retry_s = 0.0
        self.first_due = False  # a replica that was asked for at the deploy has not been there yet
        self.granted = 0  # replicas that need no delay: from zero, or there already
        self.rising_since_s: float | None = None  # the load has asked for more; None: it does not
        self.stepped_at_s = 0.0  # of the last step down, and how far it may go
        self.step_floor = 0
        self.rule = ""  # of the last reason that was given
        self.version = 0  # of what the gaps' windows follow from

    def with_window(self, stable_window_s: float) -> Learned:
        """The averages start anew with another window; what was learned stays."""
        self.load, self.peak = LoadWindow(stable_window_s), SlidingMax()
        return self

    def served(self, service_s: float) -> None:
        known = self.service_s
        self.service_s = (
            known + _SERVICE_SHARE_OF_NEWEST * (service_s - known) if known else service_s
        )

    def forecast(self, hit: bool) -> None:
        """A prewarm window has ended, whether or not a replica was started for it."""
        self.hit_rate += HIT_SHARE_OF_NEWEST * (hit - self.hit_rate)
        self.version += 1

    def dump(self) -> ModelState:
        observed, unit, counts = self.gaps.dump()
        load = self.load
        return ModelState(
            gaps=GapsState(observed=observed, unit=unit, counts=counts),
            cold_starts=ColdStartsState(
                samples=self.cold_starts.dump(),
                latest=self.cold_starts.latest,
                means=self.cold_starts.dump_means(),
                nbytes=self.cold_starts.nbytes,
            ),
            first_tokens=FirstTokensState(
                revision_id=self.first_tokens.revision_id, tiers=self.first_tokens.dump()
            ),
            burst=BurstState(
                k=self.burst.k, began_s=self.burst.began_s, waiting=self.burst.waiting
            ),
            load=LoadState(
                window_s=load.window_s,
                buckets=list(load.buckets),
                load=load.load,
                since_s=load.since_s,
                seen_s=load.seen_s,
                changed_s=load.changed_s,
                peak=list(self.peak.points),
            ),
            panic=PanicState(until_s=self.panic_until_s, replicas=self.panic_replicas),
            prewarm=PrewarmState(
                hit_rate=self.hit_rate,
                until_s=self.prewarm_until_s,
                retry_s=self.prewarm_retry_s,
                first_due=self.first_due,
            ),
            guard=GuardState(lost=self.guard.lost, active=self.guard.active),
            step=StepState(at_s=self.stepped_at_s, floor=self.step_floor),
            service_s=self.service_s,
            idle_since_s=self.idle_since_s,
            granted=self.granted,
            rising_since_s=self.rising_since_s,
            rule=self.rule,
        )

    @classmethod
    def load_from(cls, state: ModelState) -> Learned:
        learned = cls(state.load.window_s)
        learned.gaps = GapHistogram.load(
            state.gaps.observed, state.gaps.unit, dict(state.gaps.counts)
        )
        starts = state.cold_starts
        learned.cold_starts = ColdStarts.load(
            dict(starts.samples), starts.latest, dict(starts.means), starts.nbytes
        )
        learned.first_tokens = FirstTokens.load(
            state.first_tokens.revision_id, dict(state.first_tokens.tiers)
        )
        learned.burst = Burst(state.burst.k, state.burst.began_s, state.burst.waiting)
        load = learned.load
        load.buckets = deque(state.load.buckets)
        load.load, load.since_s = state.load.load, state.load.since_s
        load.seen_s, load.changed_s = state.load.seen_s, state.load.changed_s
        learned.peak = SlidingMax(tuple(state.load.peak))
        learned.panic_until_s = state.panic.until_s
        learned.panic_replicas = state.panic.replicas
        learned.guard = Guard(state.guard.lost, state.guard.active)
        learned.hit_rate = state.prewarm.hit_rate
        learned.prewarm_until_s = state.prewarm.until_s
        learned.prewarm_retry_s = state.prewarm.retry_s
        learned.first_due = state.prewarm.first_due
        learned.granted = state.granted
        learned.rising_since_s = state.rising_since_s
        learned.stepped_at_s, learned.step_floor = state.step.at_s, state.step.floor
        learned.service_s, learned.idle_since_s = state.service_s, state.idle_since_s
        learned.rule = state.rule
        return learned
