"""The policy: told what changes, asked what to do, in production and in the simulator alike.

    wanted   from zero ceil(queued / target) at once; else the mean of the stable window, of the
             panic window if that is far above, or what a queue needs that outlasts another start
    attach   what is missing: queues first, the longest waiting first, one replica each before more
    detach   what is idle for longer than pays, at most half in one step; obsolete ones at once
    evict    only idle replicas beyond what their model fills, least worth first; what the model
             then lacks starts in the same decision where there is room
    prewarm  ahead of the request that the gaps foretell, into room that is free or worth less

No clock, no randomness. It looks only at what has changed or fallen due. Told that its orders were
carried out and asked again at the same time, it decides nothing more.
"""

from __future__ import annotations

from math import inf

from pilotlight_autoscaler.actions import Actions
from pilotlight_autoscaler.checks import require
from pilotlight_autoscaler.decision import Attach, Decision, Detach, Drain, Reason, Rule, Unplaced
from pilotlight_autoscaler.draft import Draft
from pilotlight_autoscaler.errors import ClockError
from pilotlight_autoscaler.explain import hold_reason, new_hold_reason
from pilotlight_autoscaler.keep_alive import Windows
from pilotlight_autoscaler.learned import Learned
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.notified import Notified
from pilotlight_autoscaler.pool import needed_workers
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.rules import Rules
from pilotlight_autoscaler.state import PolicyState

_QUIET = Decision()


class Autoscaler(Notified):
    """The one Policy of production. See ``Policy`` for what each method is told."""

    def __init__(
        self, pool: PoolConfig | None = None, rules: Rules | None = None, *, words: bool = True
    ) -> None:
        """Without *words* it decides the same, and its reasons have no texts: nobody reads them."""
        super().__init__(pool or PoolConfig(), rules or Rules())
        self._words = words
        self._decided_s = 0.0
        self._unplaced: tuple[Unplaced, ...] = ()
        self._evicted = False  # by the latest decision
        self._room_due_s = inf  # when what found no worker may evict

    def remove_model(self, name: str) -> None:
        super().remove_model(name)
        if any(each.model == name for each in self._unplaced):
            # No worker is needed for it any more, and the next decision has to say so.
            self._unplaced = tuple(each for each in self._unplaced if each.model != name)
            self._mirror.pool_changed = True

    def patience_s(self, model: str) -> float:
        """The only replica that a model may have is not let go before it has idled for long, or its
        forecast has failed, and no load brings another one. Where room is short, others may want
        its place at once, and who was evicted to come back.
        """
        view = self._mirror.model(model)
        if self._watch.short or self._evicted:
            return 0.0
        if not view.only or view.ready != 1 or view.attaching or view.queued:
            return 0.0
        prewarmed_s = view.learned.prewarm_until_s
        if prewarmed_s is not None:
            (replica,) = view.live.values()
            return max(0.0, prewarmed_s - replica.since_s)
        fixed_s = view.config.idle_timeout_s
        return self._rules.keep_alive.at_least_s(view) if fixed_s is None else fixed_s

    def decide(self, now_s: float) -> Decision:
        """What to do, and when to look again.

        Raises InputError if *now_s* is not a time, ClockError if it is before the last decision.
        """
        if not 0 <= now_s < inf:
            require(now_s, "now_s")
        if now_s < self._decided_s:
            raise ClockError(
                f"now_s went back from {self._decided_s} to {now_s}: give the later of the two"
            )
        self._decided_s = now_s
        self._evicted = False
        mirror, watch = self._mirror, self._watch
        acts = watch.round(now_s)
        reasons = self._new_reasons(now_s) if self._words and watch.seen else ()
        if watch.lacking:
            acts = acts or mirror.room_changed or now_s >= self._room_due_s
        if acts or watch.leaving or watch.draining or mirror.obsolete:
            return self._act(now_s, reasons)
        pool = None
        if mirror.pool_changed or now_s >= self._pool.due_s:
            if watch.lacking:
                return self._act(now_s, reasons)
            pool = self._pool.decide(mirror, 0, 0, now_s)
            mirror.pool_changed = False
        wake_s = self._wake_s(now_s)
        if wake_s is None and pool is None and not self._unplaced and not reasons:
            return _QUIET
        return Decision((), (), (), self._unplaced, pool, reasons, wake_s)

    def explain(self, name: str, now_s: float) -> Reason:
        """Why the model is as it is, and what would have been needed for something else."""
        view = self._mirror.model(name)
        for each in self._unplaced:
            if each.model == name:
                return Reason(name, Rule.UNPLACED, each.reason)
        return hold_reason(view, self._look, now_s)

    def explain_pool(self, now_s: float) -> Reason:
        """Why there are to be so many workers, and what would have been needed for others."""
        return self._pool.explain(now_s)

    def view(self, name: str) -> ModelView:
        """The model as it is seen, to be read. Raises InputError if it was never told of."""
        return self._mirror.model(name)

    def windows(self, name: str) -> Windows:
        """How long the model's idle replica stays, and when it would be back."""
        return self._look.windows(self._mirror.model(name))

    def state(self) -> PolicyState:
        """What was learned, to be saved."""
        learned = self._mirror.learned
        return PolicyState(
            decided_s=self._decided_s,
            models={name: each.dump() for name, each in sorted(learned.items())},
            pool=self._pool.dump(self._mirror.sizes.largest_bytes),
        )

    def restore(self, state: PolicyState) -> None:
        """Take over what was saved, in place of what was learned so far."""
        mirror = self._mirror
        mirror.learned = {name: Learned.load_from(each) for name, each in state.models.items()}
        for view in mirror.models.values():
            mirror.adopt(view)
        if not mirror.workers:
            mirror.sizes.largest_bytes = state.pool.worker_bytes
        self._decided_s = max(self._decided_s, state.decided_s)
        self._pool.load(state.pool)
        mirror.room_changed = mirror.pool_changed = True

    def _new_reasons(self, now_s: float) -> tuple[Reason, ...]:
        """Why nothing is done, for those of whom another rule holds than last time."""
        found = [
            new_hold_reason(view, self._look, now_s)
            for view in self._watch.seen
            if view.name not in self._watch.leaving
        ]
        return tuple(reason for reason in found if reason is not None)

    def _act(self, now_s: float, reasons: tuple[Reason, ...]) -> Decision:
        mirror, watch = self._mirror, self._watch
        draft = Draft(mirror, self._rules, now_s, words=self._words)
        actions = Actions(draft, self._look)
        lacking = [mirror.models[name] for name in sorted(watch.lacking)]
        attach = actions.attach(lacking) if lacking else ()
        leave = watch.leaving or mirror.obsolete
        detach = actions.detach(sorted(watch.leaving)) if leave else ()
        drain = actions.drain(sorted(watch.draining)) if watch.draining else ()
        self._unplaced, self._room_due_s = (), inf
        watch.short.clear()
        self._evicted = draft.evictions > 0
        # Without them nobody was evicted, and nobody found no room.
        needed = self._note_short(draft, actions, lacking) if lacking else 0
        orders: tuple[Attach | Detach | Drain, ...] = (*attach, *detach, *drain)
        for order in orders:
            view = mirror.models.get(order.model)
            if view is not None:
                view.learned.rule = order.reason.rule
        for name in draft.removed:
            watch.expect(mirror.models[name])  # a step down says when the next may be
        mirror.changed |= draft.removed.keys()  # what was ordered may come to nothing untold
        for name in watch.draining:
            watch.expect(mirror.models[name])
        pool = self._pool.decide(mirror, draft.filled, needed, now_s)
        # Orders hold until they are told of as carried out.
        mirror.room_changed = bool(orders)
        mirror.pool_changed = draft.filled > 0
        return Decision(attach, detach, drain, self._unplaced, pool, reasons, self._wake_s(now_s))

    def _note_short(self, draft: Draft, actions: Actions, lacking: list[ModelView]) -> int:
        """Who found no room, why, and when to try again; the workers that they need."""
        short = self._short(draft, lacking)
        if not short:
            return 0
        needed = needed_workers(draft, short)
        short = [each for each in short if not self._waits(each, draft.now_s)]
        watch = self._watch
        watch.short = {each.name for each in short}
        watch.lacking |= watch.short  # also who was evicted from
        if short:
            self._unplaced = actions.unplaced(short)
            self._room_due_s = actions.room_due_s(short)
        return needed

    def _short(self, draft: Draft, lacking: list[ModelView]) -> list[ModelView]:
        """Who found no room, the evicted among them; forecasts only try again soon."""
        models, watch = self._mirror.models, self._watch
        others = [models[name] for name in sorted(draft.removed) if name not in watch.lacking]
        found: list[ModelView] = []
        for each in (*lacking, *others):
            if draft.missing(each) <= 0:
                continue
            if each.rule is Rule.PREWARM:
                watch.postpone(each, draft.now_s)
            else:
                found.append(each)
        return found

    def _waits(self, view: ModelView, now_s: float) -> bool:
        """A start at a deploy tries again as a forecast does; but a pool may grow for it."""
        if view.rule is not Rule.DEPLOY or now_s < view.snapshot.retry_at_s:
            return False
        self._watch.postpone(view, now_s)
        return True

    def _wake_s(self, now_s: float) -> float | None:
        wake_s = min(self._watch.due_s(), self._room_due_s, self._pool.due_s)
        return wake_s if now_s < wake_s < inf else None
