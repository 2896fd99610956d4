"""The policy: one picture of the cluster and the time in, what to do now out.

    wanted   = ceil((queued + ongoing) / target), within [min_replicas, max_replicas]
    attach   what is missing: queues first, the longest waiting first, one replica each before more
    detach   what is beyond the wanted and idle for idle_timeout_s; obsolete revisions at once
    evict    only for a queue, only idle replicas beyond what their model fills, by
             loss = cold_start_s * requests_per_s: the waiting expected per second without it

No clock, no randomness, no state between calls. Applied and asked again at the same time, it
decides nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pilotlight_autoscaler.placement import (
    EvictionTimes,
    choose_worker,
    why_unplaced,
)
from pilotlight_autoscaler.plan import ClusterPlan, IdleReplica, ModelPlan, draw_up
from pilotlight_autoscaler.snapshot import Attach, ClusterSnapshot, Decision, Detach


def decide(snapshot: ClusterSnapshot, now_s: float) -> Decision:
    """Attach, detach, evict; say why; say when to look again.

    Raises:
        ValueError: *now_s* is not finite.
    """
    if not math.isfinite(now_s):
        raise ValueError(f"now_s must be a finite number of seconds, not {now_s}")
    plan = draw_up(snapshot, now_s)
    waiting, others = _in_order(plan, now_s)

    attach: list[Attach] = []
    while True:
        placed = list(_place_round(plan, waiting, others, now_s))
        attach += placed
        # What an eviction frees beyond its need may be enough for a model that found no room.
        if not any(action.evict for action in placed):
            break
    detach = tuple(_detach_leaving(plan, now_s))

    lacking = [each for each in waiting + others if each.missing > 0]
    return Decision(
        attach=tuple(attach),
        detach=detach,
        unplaced=tuple(why_unplaced(plan.workers, each) for each in lacking),
        wake_at_s=_wake_at_s(plan, lacking, now_s),
    )


def _in_order(plan: ClusterPlan, now_s: float) -> tuple[list[ModelPlan], list[ModelPlan]]:
    """Models with a queue, then the others; without those that may not be tried yet."""
    allowed = [each for each in plan.models if not each.model.retry_at_s > now_s]
    waiting = [each for each in allowed if each.model.queued > 0]
    waiting.sort(key=lambda each: (each.waiting_since_s, each.model.name))
    others = [each for each in allowed if each.model.queued <= 0]
    others.sort(key=lambda each: (each.ongoing == 0, each.model.name))
    return waiting, others


def _place_round(
    plan: ClusterPlan, waiting: list[ModelPlan], others: list[ModelPlan], now_s: float
) -> Iterator[Attach]:
    for each in waiting:
        if each.live == 0:
            yield from _attach_up_to(plan, each, 1, now_s)
    for each in waiting + others:
        yield from _attach_up_to(plan, each, each.desired, now_s)


def _attach_up_to(
    plan: ClusterPlan, model: ModelPlan, replicas: int, now_s: float
) -> Iterator[Attach]:
    impatient = now_s >= model.impatient_at_s

    def may_go(idle: IdleReplica) -> bool:
        if model.model.queued > 0:
            return idle.evictable(now_s, impatient=impatient)
        return idle.leaves(now_s)

    while model.live < replicas:
        choice = choose_worker(plan.workers, model.model, may_go)
        if choice is None:
            return
        worker, victims = choice
        reason = _attach_reason(model, victims)
        for idle in victims:
            worker.detach(idle)
        worker.attach(model)
        yield Attach(
            model=model.model.name,
            revision_id=model.model.revision_id,
            worker_id=worker.worker.worker_id,
            evict=tuple(idle.replica.revision_id for idle in victims),
            reason=reason,
        )


def _attach_reason(model: ModelPlan, victims: list[IdleReplica]) -> str:
    config = model.model.config
    reason = (
        f"{model.model.queued} queued + {model.ongoing} ongoing, target {config.target:g}: "
        f"wants {model.desired}, has {model.live}"
    )
    demand = model.model.queued + model.ongoing
    if demand > config.target * model.desired:
        reason += f", max_replicas is {config.max_replicas}"
    elif demand <= config.target * (model.desired - 1):
        reason += f", min_replicas is {config.min_replicas}"
    if victims:
        names = ", ".join(f"{idle.replica.model} ({idle.replica.revision_id})" for idle in victims)
        reason += f"; evicts idle {names}"
    return reason


def _detach_leaving(plan: ClusterPlan, now_s: float) -> Iterator[Detach]:
    idles = [(idle, worker) for worker in plan.workers for idle in worker.idle]
    idles.sort(key=lambda pair: pair[0].idle_since_s)  # longest first, then as the workers stand
    for idle, worker in idles:
        if idle.leaves(now_s):
            worker.detach(idle)
            yield Detach(
                model=idle.replica.model,
                revision_id=idle.replica.revision_id,
                worker_id=worker.worker.worker_id,
                reason=_detach_reason(idle, now_s),
            )


def _detach_reason(idle: IdleReplica, now_s: float) -> str:
    if idle.owner is None:
        return f"idle, and no model lists revision {idle.replica.revision_id}"
    return (
        f"idle for {now_s - idle.idle_since_s:.1f} s, "
        f"idle_timeout_s is {idle.owner.model.config.idle_timeout_s:g}"
    )


def _wake_at_s(plan: ClusterPlan, lacking: list[ModelPlan], now_s: float) -> float | None:
    """The earliest time at which time alone brings an action or lifts a retry."""
    times = EvictionTimes(plan.workers)
    at_s = [times.earliest_s(each) for each in lacking if each.model.queued > 0]
    at_s += [each.model.retry_at_s for each in plan.models if each.missing > 0]
    for worker in plan.workers:
        for idle in worker.idle:
            if idle.owner is not None and idle.owner.ready > idle.owner.desired:
                at_s.append(idle.timeout_at_s)
    return min((time for time in at_s if now_s < time < math.inf), default=None)
