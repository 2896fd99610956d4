"""One look at one model: what it wants, which of its idle replicas go, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.demand import (
    floor_replicas,
    kept_replicas,
    occupied_replicas,
    wanted_replicas,
)
from pilotlight_autoscaler.keep_alive import Prewarm, Windows
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.replica_view import idle_since_s
from pilotlight_autoscaler.rules import Rules
from pilotlight_autoscaler.snapshot import READY
from pilotlight_autoscaler.surplus import (
    find_drained,
    note_peak,
    step,
    surplus_timeout_s,
)
from pilotlight_autoscaler.upscaling import granted

PREWARM_RETRY_S = 10.0
# Names, not members of their enum: see snapshot.
_FLOOR, _HOLDS, _PREWARM, _REST = Rule.FLOOR, Rule.HOLDS, Rule.PREWARM, Rule.REST


@dataclass(slots=True)
class Look:
    """Fills a model's ``want``, ``keep``, ``occupied``, ``leaves_at``, ``rule`` and ``due_s``."""

    rules: Rules
    max_prewarm_share: float = 0.5

    def at(self, model: ModelView, now_s: float) -> None:
        due_s = inf
        if model.learned.first_due:
            on_deploy = model.snapshot.config.prewarm.on_deploy
            model.learned.first_due = on_deploy and not model.ready
        if model.only and not model.queued:
            live = model.ready + model.attaching
            if not live:
                self._at_zero(model, now_s)
                return
            if live == 1:
                # A step down or a panic may be of the replicas that it had before.
                due_s = model.steps_until_s if model.ready else inf
                if now_s >= (due_s if model.ready else model.learned.panic_until_s):
                    self._at_only_replica(model, now_s)
                    return
        config, learned = model.snapshot.config, model.learned
        floor = floor_replicas(config, now_s)
        want, rule = wanted_replicas(model, floor, now_s)
        want, rule, more_s = granted(model, want, rule, floor, now_s)
        due_s = min(due_s, more_s)
        if config.schedule:
            due_s = min(due_s, _schedule_due_s(model, now_s))
        load = model.demand
        live = model.ready + model.attaching
        model.rising = load > model.target * live and 0 < live < config.max_replicas
        if model.rising:
            due_s = min(due_s, self._load_due_s(model, now_s))
        if live > 1:
            note_peak(model, now_s)
        model.forecast = None
        if live == 0 and load == 0:
            want, rule, at_s = self._want_ahead(model, want, rule, now_s)
            due_s = min(due_s, at_s)
        model.want, model.rule = want, rule
        model.keep = kept_replicas(model, want, now_s)
        model.occupied = occupied_replicas(model, floor)
        if model.leaves_at:
            model.leaves_at = {}
        model.drains = ()
        if model.ready > model.keep:
            due_s = min(due_s, self._find_leaving(model, now_s))
            if live > 1 and load:
                due_s = min(due_s, find_drained(model, now_s))
        if now_s < learned.panic_until_s:
            due_s = min(due_s, learned.panic_until_s)
        if want > live and now_s < model.snapshot.retry_at_s:
            due_s = min(due_s, model.snapshot.retry_at_s)
        model.due_s = due_s

    def _at_zero(self, model: ModelView, now_s: float) -> None:
        """The same for a model that rests: only a forecast may want a replica."""
        learned = model.learned
        if learned.load.load or learned.load.since_s is None:
            learned.load.observe(0.0, now_s)
        model.rising, model.drains, model.occupied = False, (), 0
        if model.leaves_at:
            model.leaves_at = {}
        want, model.rule, due_s = self._want_ahead(model, 0, _FLOOR, now_s)
        model.want = model.keep = want
        if now_s < learned.panic_until_s:
            due_s = min(due_s, learned.panic_until_s)
        else:
            learned.panic_replicas = 0
        if want and now_s < model.snapshot.retry_at_s:
            due_s = min(due_s, model.snapshot.retry_at_s)
        model.due_s = due_s

    def _want_ahead(
        self, model: ModelView, want: int, rule: Rule, now_s: float
    ) -> tuple[int, Rule, float]:
        """What a model that rests wants, by which rule, and when to look again."""
        learned = model.learned
        if learned.prewarm_until_s is not None and now_s >= learned.prewarm_until_s:
            learned.prewarm_until_s = None
        if want:
            return want, rule, inf
        if learned.first_due:
            model.forecast = None
            if now_s < learned.prewarm_retry_s:
                return 0, Rule.REST, learned.prewarm_retry_s
            return 1, Rule.DEPLOY, inf
        model.forecast, at_s = self._forecast(model, now_s)
        if model.forecast is None:
            return 0, _REST, at_s
        return 1, _PREWARM, at_s

    def _at_only_replica(self, model: ModelView, now_s: float) -> None:
        """The same for the one replica that a model may have: no load asks for another."""
        if model.learned.load.load:
            model.learned.load.observe(0.0, now_s)  # its window says nothing here, and starts anew
        model.rising, model.forecast, model.drains = False, None, ()
        model.learned.granted, model.learned.rising_since_s = 1, None  # no others are asked for
        busy = 1 if model.ongoing else 0
        model.want = model.keep = model.occupied = busy
        model.rule = _HOLDS if busy else _FLOOR
        if busy or not model.ready:
            if model.leaves_at:
                model.leaves_at = {}
            model.due_s = inf
            return
        at_s = self.rest_s(model, now_s)
        model.leaves_at = dict.fromkeys(model.live, at_s)
        model.due_s = at_s if at_s > now_s else inf

    def postpone(self, model: ModelView, now_s: float) -> None:
        """What nobody asked for found no room: nothing is wanted until it is tried again."""
        model.learned.prewarm_retry_s = now_s + PREWARM_RETRY_S
        model.want, model.rule, model.forecast = 0, _REST, None
        model.due_s = model.learned.prewarm_retry_s

    def windows(self, model: ModelView) -> Windows:
        fixed_s = model.config.idle_timeout_s
        return self.rules.keep_alive.windows(model) if fixed_s is None else Windows(fixed_s)

    def rest_s(self, model: ModelView, now_s: float) -> float:
        """When the model's last replica may go: its gap is no longer worth a replica."""
        learned = model.learned
        since_s, auto = learned.idle_since_s, model.auto
        if learned.prewarm_until_s is not None:
            if not auto or since_s is None:
                return learned.prewarm_until_s
            # A recalled one may stay as long as if it had never gone.
            windows = model.windows or self.windows(model)
            return max(learned.prewarm_until_s, since_s + windows.keep_s)
        idle_s: float | None = None  # the newest of its ready replicas
        for each in model.live.values():
            if each.phase is READY:
                at_s = idle_since_s(each)
                if idle_s is None or at_s > idle_s:
                    idle_s = at_s
        if idle_s is None:
            idle_s = since_s or 0.0
        if auto:
            if since_s is not None and since_s > idle_s:
                idle_s = since_s
            if not model.rested:
                # A busy model's gaps end before this: its windows need not be worked out each time.
                least_s = idle_s + self.rules.keep_alive.at_least_s(model)
                if now_s < least_s:
                    return least_s
        return idle_s + self.windows(model).keep_s

    def back_s(self, model: ModelView, now_s: float, soon_s: float) -> float:
        """When to look at a model that goes now: when it is due again; *soon_s* if it is now."""
        forecast, at_s = self._forecast(model, now_s)
        return soon_s if forecast is not None else at_s

    def _forecast(self, model: ModelView, now_s: float) -> tuple[Prewarm | None, float]:
        """A window that is open now, and when to look again."""
        learned = model.learned
        since_s = learned.idle_since_s
        if since_s is None or not model.auto:
            return None, inf
        if not self.rules.keep_alive.trusts(model):
            return None, inf
        windows = self.windows(model)
        # It rests although it might have stayed: others needed its room.
        early = now_s < since_s + windows.keep_s
        for each in windows.recall if early else windows.prewarm:
            if now_s < since_s + each.load_age_s:
                return None, since_s + each.load_age_s
            if now_s < since_s + each.drop_age_s:
                if now_s < learned.prewarm_retry_s:
                    return None, learned.prewarm_retry_s
                return each, since_s + each.drop_age_s
        return None, inf

    def _load_due_s(self, model: ModelView, now_s: float) -> float:
        """The averages rise towards a load that is too high; a queue grows too old."""
        load, panic = model.learned.load, model.snapshot.config.panic
        due_s = inf if load.settled(now_s) else now_s + load.width_s
        oldest_s = model.oldest_queued_since_s
        if model.queued and oldest_s is not None:
            late_s = oldest_s + panic.queue_slo_s
            due_s = min(due_s, late_s if late_s > now_s else inf)
        return due_s

    def _find_leaving(self, model: ModelView, now_s: float) -> float:
        """Notes when idle surplus replicas go, longest idle first; when the first one may."""
        idle = [
            (idle_since_s(each), worker_id)
            for worker_id, each in model.live.items()
            if each.phase is READY and not each.ongoing
        ]
        if not idle:
            return inf
        idle.sort()
        surplus_s = surplus_timeout_s(model) if model.ready > 1 else inf
        rest_s = self.rest_s(model, now_s) if model.keep == 0 and not model.demand else inf
        floor, next_step_s = step(model, now_s)
        due_s, left = inf, model.ready
        for since_s, worker_id in idle:
            if left <= model.keep:
                break
            at_s = rest_s if left == 1 else min(rest_s, since_s + surplus_s)
            if left <= floor:
                if next_step_s is None:
                    return min(due_s, at_s) if at_s > now_s else due_s
                at_s = max(at_s, next_step_s)
            left -= 1
            model.leaves_at[worker_id] = at_s
            if at_s > now_s:
                due_s = min(due_s, at_s)
        return due_s


def _schedule_due_s(model: ModelView, now_s: float) -> float:
    changes = (each.next_change_s(now_s) for each in model.snapshot.config.schedule)
    return min((at_s for at_s in changes if at_s is not None), default=inf)
