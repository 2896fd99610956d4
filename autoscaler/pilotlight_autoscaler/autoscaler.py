"""The policy: told what changes, asked what to do, in production and in the simulator alike.

    wanted   from zero ceil(queued / target) at once; else the mean of the stable window, of the
             panic window if that is far above, or what a queue needs that outlasts another start
    attach   what is missing: queues first, the longest waiting first, one replica each before more
    detach   what is idle for longer than pays, at most half in one step; obsolete ones at once
    evict    only idle replicas beyond what their model fills, least worth first
    prewarm  ahead of the request that the gaps foretell, into room that is free or worth less

No clock, no randomness. It looks only at what has changed or fallen due. Told that its orders were
carried out and asked again at the same time, it decides nothing more.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf, isfinite

from pilotlight_autoscaler.actions import Actions
from pilotlight_autoscaler.checks import require
from pilotlight_autoscaler.decision import Attach, Decision, Detach, Drain, Reason, Rule, Unplaced
from pilotlight_autoscaler.draft import Draft
from pilotlight_autoscaler.errors import ClockError, InputError
from pilotlight_autoscaler.explain import hold_reason
from pilotlight_autoscaler.keep_alive import Windows
from pilotlight_autoscaler.learned import Learned
from pilotlight_autoscaler.lessons import Lessons
from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.pool import Pool
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.rules import Rules
from pilotlight_autoscaler.snapshot import (
    ModelSnapshot,
    NodeSnapshot,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)
from pilotlight_autoscaler.state import PolicyState

_QUIET = Decision()


class Autoscaler:
    """The one Policy of production. See ``Policy`` for what each method is told."""

    def __init__(self, pool: PoolConfig | None = None, rules: Rules | None = None) -> None:
        self._rules = rules or Rules()
        self._mirror = Mirror()
        self._look = Look(self._rules)
        self._lessons = Lessons(self._mirror, self._look)
        self._pool = Pool(pool or PoolConfig())
        self._look.max_prewarm_share = self._pool.config.max_prewarm_share
        self._decided_s = 0.0
        self._due: list[tuple[float, str]] = []  # heap; an entry counts if its model says so too
        self._lacking: set[str] = set()
        self._leaving: set[str] = set()
        self._rising: set[str] = set()  # their averages rise with time towards too high a load
        self._draining: set[str] = set()
        self._unplaced: tuple[Unplaced, ...] = ()
        self._room_due_s = inf  # when what found no worker may evict

    # ── told ─────────────────────────────────────────────────────────────────────────────────

    def update_model(self, model: ModelSnapshot) -> None:
        self._mirror.update_model(model)

    def update_queue(self, model: str, queued: int, oldest_queued_since_s: float | None) -> None:
        self._mirror.update_queue(model, queued, oldest_queued_since_s)

    def remove_model(self, name: str) -> None:
        self._mirror.remove_model(name)
        for names in (self._lacking, self._leaving, self._draining, self._rising):
            names.discard(name)

    def update_worker(self, worker: WorkerSnapshot) -> None:
        self._mirror.update_worker(worker)

    def update_replica(self, worker_id: str, replica: ReplicaSnapshot) -> None:
        self._mirror.update_replica(worker_id, replica)

    def remove_worker(self, worker_id: str) -> None:
        self._mirror.remove_worker(worker_id)

    def update_node(self, node: NodeSnapshot) -> None:
        self._mirror.update_node(node)

    def remove_node(self, node_id: str) -> None:
        self._mirror.remove_node(node_id)

    def update_starting(self, starting: tuple[StartingWorker, ...]) -> None:
        self._mirror.update_starting(starting)

    def update_pool(self, config: PoolConfig) -> None:
        """Other bounds of the pool, from the next decision on."""
        self._pool.config = config
        self._mirror.pool_changed = True
        self._look.max_prewarm_share = config.max_prewarm_share
        self._mirror.room_changed = True

    def arrived(self, model: str, at_s: float, requests: int = 1) -> None:
        self._lessons.arrived(model, at_s, requests)

    def finished(self, model: str, at_s: float, left: int, service_s: float | None = None) -> None:
        self._lessons.finished(model, at_s, left, service_s)

    def cold_started(self, model: str, tier: Tier, seconds: float) -> None:
        self._lessons.cold_started(model, tier, seconds)

    # ── asked ────────────────────────────────────────────────────────────────────────────────

    def decide(self, now_s: float) -> Decision:
        """What to do, and when to look again.

        Raises InputError if *now_s* is not a time, ClockError if it is before the last decision.
        """
        if not isfinite(now_s):
            raise InputError(f"now_s must be a finite number of seconds, not {now_s}")
        require(now_s, "now_s")
        if now_s < self._decided_s:
            raise ClockError(
                f"now_s went back from {self._decided_s} to {now_s}: give the later of the two"
            )
        self._decided_s = now_s
        mirror = self._mirror
        acts, reasons = self._look_at_changes(now_s)
        if self._lacking:
            acts = acts or mirror.room_changed or now_s >= self._room_due_s
        if acts or self._leaving or self._draining or mirror.obsolete:
            return self._act(now_s, reasons)
        if mirror.pool_changed or now_s >= self._pool.due_s:
            return self._act(now_s, reasons)
        wake_s = self._wake_s(now_s)
        if wake_s is None and not self._unplaced and not reasons:
            return _QUIET
        return Decision(unplaced=self._unplaced, reasons=tuple(reasons), wake_at_s=wake_s)

    def explain(self, name: str, now_s: float) -> Reason:
        """Why the model is as it is, and what would have been needed for something else."""
        view = self._mirror.model(name)
        for each in self._unplaced:
            if each.model == name:
                return Reason(name, Rule.UNPLACED, each.reason)
        return hold_reason(view, self._look, now_s)

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
            pool=self._pool.dump(self._mirror.largest_bytes),
        )

    def restore(self, state: PolicyState) -> None:
        """Take over what was saved, in place of what was learned so far."""
        mirror = self._mirror
        mirror.learned = {name: Learned.load_from(each) for name, each in state.models.items()}
        for view in mirror.models.values():
            mirror.adopt(view)
        if not mirror.workers:
            mirror.largest_bytes = state.pool.worker_bytes
        self._decided_s = max(self._decided_s, state.decided_s)
        self._pool.load(state.pool)
        mirror.room_changed = mirror.pool_changed = True

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _look_at_changes(self, now_s: float) -> tuple[bool, list[Reason]]:
        """Look at what changed or fell due: is anything to be done, and what is held back anew."""
        mirror, due = self._mirror, self._due
        names = mirror.changed
        names |= self._rising
        while due and due[0][0] <= now_s:
            at_s, name = heappop(due)
            view = mirror.models.get(name)
            if view is not None and view.due_s == at_s:
                view.due_s = inf
                names.add(name)
        acts, reasons = False, []
        for name in sorted(names) if len(names) > 1 else names:
            view = mirror.models.get(name)
            if view is None:
                continue
            before = name in self._lacking
            if self._look_at(view, now_s) or before:
                acts = True  # also when it lacks nothing any more: the pool may want less
            reason = self._new_reason(view, now_s)
            if reason is not None:
                reasons.append(reason)
        names.clear()
        return acts, reasons

    def _look_at(self, view: ModelView, now_s: float) -> bool:
        """Whether there may be something to do for the model."""
        name, old_due_s = view.name, view.due_s
        for worker_id in view.live:
            self._mirror.workers[worker_id].idle = None
        self._look.at(view, now_s)
        if view.due_s != old_due_s and view.due_s < inf:
            heappush(self._due, (view.due_s, name))
        lacks = view.want > view.ready + view.attaching
        goes = bool(view.leaves_at) and min(view.leaves_at.values()) <= now_s
        (self._lacking.add if lacks else self._lacking.discard)(name)
        (self._leaving.add if goes else self._leaving.discard)(name)
        (self._draining.add if view.drains else self._draining.discard)(name)
        (self._rising.add if view.rising else self._rising.discard)(name)
        return lacks or goes or bool(view.drains)

    def _new_reason(self, view: ModelView, now_s: float) -> Reason | None:
        """Why nothing is done, if that is another rule than last time."""
        live = view.ready + view.attaching
        if view.want > live or view.name in self._leaving:
            return None
        steady = view.demand <= view.snapshot.config.target * live
        rule: str = Rule.REST if live == 0 else Rule.HOLDS
        if steady and view.learned.rule == rule:
            return None
        reason = hold_reason(view, self._look, now_s)
        if reason.rule == view.learned.rule:
            return None
        view.learned.rule = reason.rule
        return reason

    def _act(self, now_s: float, reasons: list[Reason]) -> Decision:
        mirror = self._mirror
        draft = Draft(mirror, self._rules, now_s)
        actions = Actions(draft, self._look)
        lacking = [mirror.models[name] for name in sorted(self._lacking)]
        attach = actions.attach(lacking) if lacking else ()
        detach = actions.detach(sorted(self._leaving))
        drain = actions.drain(sorted(self._draining))
        evicted = [
            mirror.models[name] for name in sorted(draft.removed) if name not in self._lacking
        ]
        short = [each for each in (*lacking, *evicted) if draft.missing(each) > 0]
        for each in [each for each in short if each.rule is Rule.PREWARM]:
            self._postpone(each, now_s)
        short = [each for each in short if each.rule is not Rule.PREWARM]
        self._lacking.update(each.name for each in short)  # also who lost one to an eviction
        self._unplaced = actions.unplaced(short)
        self._room_due_s = actions.room_due_s(short)
        pool = self._pool.decide(draft, short, now_s)
        orders: tuple[Attach | Detach | Drain, ...] = (*attach, *detach, *drain)
        for action in orders:
            view = mirror.models.get(action.model)
            if view is not None:
                view.learned.rule = action.reason.rule
        for name in draft.removed:  # a step down says when the next may be
            if mirror.models[name].due_s < inf:
                heappush(self._due, (mirror.models[name].due_s, name))
        # Orders hold until they are told of as carried out.
        mirror.room_changed = bool(orders)
        mirror.pool_changed = False
        return Decision(
            attach, detach, drain, self._unplaced, pool, tuple(reasons), self._wake_s(now_s)
        )

    def _postpone(self, view: ModelView, now_s: float) -> None:
        """A forecast found no room: try again soon, not at every event."""
        self._look.postpone(view, now_s)
        self._lacking.discard(view.name)
        heappush(self._due, (view.due_s, view.name))

    def _wake_s(self, now_s: float) -> float | None:
        due, models = self._due, self._mirror.models
        while due:
            at_s, name = due[0]
            view = models.get(name)
            if view is not None and view.due_s == at_s:
                break
            heappop(due)
        wake_s = min(due[0][0] if due else inf, self._room_due_s, self._pool.due_s)
        return wake_s if now_s < wake_s < inf else None
