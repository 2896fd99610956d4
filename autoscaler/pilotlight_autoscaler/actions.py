"""Orders drawn up on a draft: attaches with their evictions, detaches, drains."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from pilotlight_autoscaler.decision import Attach, Detach, Drain, Reason, Rule, Unplaced
from pilotlight_autoscaler.draft import Draft, Seat
from pilotlight_autoscaler.explain import (
    attach_reason,
    attach_rule,
    detach_reason,
    detach_rule,
    drain_reason,
    obsolete_reason,
)
from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.placement import choose_seat, vacant_seat, why_unplaced
from pilotlight_autoscaler.replica_view import idle_since_s
from pilotlight_autoscaler.snapshot import READY
from pilotlight_autoscaler.surplus import step
from pilotlight_autoscaler.worker_view import IdleReplica

_PREWARM = Rule.PREWARM  # a name: see snapshot


class Actions:
    """One decision's orders, in the order in which they are to be drawn up: attach first."""

    def __init__(self, draft: Draft, look: Look) -> None:
        self._draft = draft
        self._look = look
        self._now_s = draft.now_s

    def attach(self, lacking: list[ModelView]) -> tuple[Attach, ...]:
        """For those that lack replicas, in fair order, then for those whom they have evicted, until
        no eviction has made more room: asked again, nobody would find any.
        """
        waiting, others = _in_order(lacking, self._now_s)
        found: list[Attach] = []
        while True:
            evictions = self._draft.evictions
            self._round(waiting, others, found)
            # What an eviction frees beyond its need may be enough for one that found no room. It
            # comes to an end: each takes an idle replica, and none that starts here is idle.
            if self._draft.evictions == evictions:
                return tuple(found)
            others += self._evicted(waiting + others)

    def detach(self, leaving: list[str]) -> tuple[Detach, ...]:
        """Idle replicas whose time has come, longest idle first; obsolete ones as soon as idle."""
        orders = self._obsolete() if self._draft.mirror.obsolete else []
        orders += self._timed_out(leaving)
        if len(orders) > 1:
            orders.sort(key=lambda order: (order[0], order[1].worker_id, order[1].revision_id))
        return tuple([order for _, order in orders])

    def drain(self, names: list[str]) -> tuple[Drain, ...]:
        """Busy replicas that the load has not needed for long."""
        found: list[Drain] = []
        for name in names:
            model = self._draft.mirror.models[name]
            reason = drain_reason(model, self._now_s)
            revision_id = model.snapshot.revision_id
            found += [Drain(name, revision_id, worker, reason) for worker in model.drains]
            self.step(model)
        return tuple(found)

    def unplaced(self, short: list[ModelView]) -> tuple[Unplaced, ...]:
        """Why each found no worker, but for those that only wait after a failed attach."""
        waiting, others = _in_order(short, self._now_s)
        return tuple(why_unplaced(self._draft, model) for model in waiting + others)

    def room_due_s(self, short: list[ModelView]) -> float:
        """When time alone may give a queue that found no worker the right to evict."""
        if not short:
            return inf
        seats = self._draft.seats()
        times = [
            _impatient_s(model, self._now_s)
            for model in short
            if model.queued and model.snapshot.retry_at_s <= self._now_s
            if any(seat.view.capacity_bytes >= model.snapshot.nbytes for seat in seats)
        ]
        if times:
            for seat in seats:
                times += [idle.resident_until_s for idle in self._draft.idle(seat)]
        return min((time for time in times if time > self._now_s), default=inf)

    def _round(
        self, waiting: list[ModelView], others: list[ModelView], found: list[Attach]
    ) -> None:
        if len(waiting) > 1:  # one replica each before more
            for model in waiting:
                if self._draft.live(model) == 0:
                    self._up_to(model, 1, found)
        for model in waiting + others:
            self._up_to(model, model.want, found)

    def _evicted(self, tried: list[ModelView]) -> list[ModelView]:
        """Who lost headroom that it still wants: it may fit where its evictor is already."""
        draft = self._draft
        removed = [draft.mirror.models[name] for name in sorted(draft.removed)]
        found = [each for each in removed if draft.missing(each) > 0 and each not in tried]
        waiting, others = _in_order(found, self._now_s)
        return waiting + others

    def _up_to(self, model: ModelView, replicas: int, found: list[Attach]) -> None:
        draft = self._draft
        live = draft.live(model)
        if live >= replicas:
            return
        for has in range(live, replicas):
            if model.rule is _PREWARM and not self._may_speculate(model):
                return
            seat = vacant_seat(draft, model)
            if seat is not None:
                found.append(self._attach(model, has, seat, []))
                continue
            choice = choose_seat(draft, model, self._permission(model))
            if choice is None:
                return
            found.append(self._attach(model, has, *choice))

    def _attach(self, model: ModelView, has: int, seat: Seat, victims: list[IdleReplica]) -> Attach:
        draft = self._draft
        reason = (
            attach_reason(model, has, victims, self._now_s)
            if draft.words
            else Reason(model.name, attach_rule(model), "")
        )
        for idle in victims:
            draft.remove(seat, idle)
            if idle.owner is not None and idle.owner.leaves_at:
                self.step(idle.owner)
        draft.attach(seat, model)
        if model.forecast is not None and model.learned.idle_since_s is not None:
            model.learned.prewarm_until_s = model.learned.idle_since_s + model.forecast.drop_age_s
        evict = tuple([idle.replica.revision_id for idle in victims])
        return Attach(model.name, model.snapshot.revision_id, seat.view.worker_id, evict, reason)

    def _permission(self, model: ModelView) -> Callable[[IdleReplica], bool]:
        """Whom *model* may evict: a queue almost anybody idle, a forecast what is worth less."""
        draft = self._draft
        if model.queued > 0:
            impatient = self._now_s >= _impatient_s(model, self._now_s)
            return lambda idle: draft.evictable(idle, impatient=impatient)
        if model.rule is _PREWARM:
            age_s = self._now_s - (model.learned.idle_since_s or self._now_s)
            # Worked out for each that may be evicted: where there is room, nobody asks.
            return lambda idle: (
                draft.evictable(idle, impatient=False)
                and (
                    draft.leaves(idle)
                    or idle.index
                    < draft.rules.hysteresis * draft.rules.residency.index(model, age_s)
                )
            )
        return draft.leaves

    def _may_speculate(self, model: ModelView) -> bool:
        """Forecasts fill only a share of the pool: they are guesses."""
        mirror = self._draft.mirror
        over = [n for n in mirror.prewarmed if mirror.models[n].learned.prewarm_until_s is None]
        mirror.prewarmed.difference_update(over)
        held = (mirror.models[name] for name in mirror.prewarmed)
        guessed = sum(each.snapshot.nbytes for each in held if each.live)
        mirror.prewarmed.add(model.name)
        most = self._look.max_prewarm_share * mirror.sizes.total_bytes
        return guessed + model.snapshot.nbytes <= most

    def _timed_out(self, leaving: list[str]) -> list[tuple[float, Detach]]:
        draft, now_s = self._draft, self._now_s
        found: list[tuple[float, Detach]] = []
        for name in leaving:
            model = draft.mirror.models[name]
            revision_id = model.snapshot.revision_id
            due = [
                (idle_since_s(model.live[worker_id]), worker_id)
                for worker_id, at_s in model.leaves_at.items()
                if at_s <= now_s and not draft.gone(worker_id, revision_id)
            ]
            due.sort()
            for since_s, worker_id in due:
                if draft.ready(model) <= model.keep:
                    break
                draft.leave(worker_id, model.live[worker_id], model)
                reason = (
                    detach_reason(model, worker_id, self._look, now_s)
                    if draft.words
                    else Reason(name, detach_rule(model), "")
                )
                found.append((since_s, Detach(name, revision_id, worker_id, reason)))
            if due:
                self.step(model)
        return found

    def _obsolete(self) -> list[tuple[float, Detach]]:
        mirror = self._draft.mirror
        found: list[tuple[float, Detach]] = []
        for worker_id, revision_id in sorted(mirror.obsolete):
            replica = mirror.workers[worker_id].replicas[revision_id]
            idle = replica.phase is READY and replica.ongoing == 0
            if idle and not self._draft.gone(worker_id, revision_id):
                self._draft.leave(worker_id, replica, None)
                reason = obsolete_reason(replica.model, revision_id)
                found.append((-inf, Detach(replica.model, revision_id, worker_id, reason)))
        return found

    def step(self, model: ModelView) -> None:
        """Note that a step down begins, unless one is under way; look again when it is over."""
        floor, next_step_s = step(model, self._now_s)
        if next_step_s is None:
            next_step_s = model.step_down(floor, self._now_s)
        if model.only and not self._draft.live(model):
            next_step_s = self._look.back_s(
                model, self._now_s, next_step_s
            )  # there is no next step
        model.due_s = min(model.due_s, next_step_s)


def _in_order(models: list[ModelView], now_s: float) -> tuple[list[ModelView], list[ModelView]]:
    """Models with a queue, then the others; without those that may not be tried yet."""
    allowed = [each for each in models if each.snapshot.retry_at_s <= now_s]
    waiting = [each for each in allowed if each.queued > 0]
    if len(waiting) > 1:
        waiting.sort(key=lambda each: (_oldest_s(each, now_s), each.name))
    others = [each for each in allowed if each.queued <= 0]
    if len(others) > 1:
        others.sort(key=lambda each: (each.rule is _PREWARM, each.ongoing == 0, each.name))
    return waiting, others


def _oldest_s(model: ModelView, now_s: float) -> float:
    oldest_s = model.oldest_queued_since_s
    return now_s if oldest_s is None else min(oldest_s, now_s)


def _impatient_s(model: ModelView, now_s: float) -> float:
    """From here its queue has waited longer than a cold start."""
    oldest_s = model.oldest_queued_since_s
    return (now_s if oldest_s is None else oldest_s) + model.cold_start_s
