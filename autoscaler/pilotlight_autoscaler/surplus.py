"""Replicas beyond those that the load needs: how long they stay, how many go in one step."""

from __future__ import annotations

from math import inf

from pilotlight_autoscaler.demand import replicas_for
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.snapshot import READY


def step(model: ModelView, now_s: float) -> tuple[int, float | None]:
    """How few ready replicas the present step down may leave; when the next one begins.

    None: no step is under way, the next one may begin now.
    """
    next_step_s = model.steps_until_s
    if now_s < next_step_s:
        return model.learned.step_floor, next_step_s
    factor = model.snapshot.config.downscaling_factor
    return model.ready - max(1, int(model.ready * factor)), None


def surplus_timeout_s(model: ModelView) -> float:
    """How long a replica beyond the first idles before it goes."""
    config = model.snapshot.config
    if config.downscale_delay_s is not None:
        return config.downscale_delay_s
    if config.idle_timeout_s is not None:
        return config.idle_timeout_s
    bounds = config.keep_alive
    return max(bounds.min_s, min(model.break_even_s, bounds.max_s))


def note_peak(model: ModelView, now_s: float) -> None:
    config, learned = model.snapshot.config, model.learned
    stable = replicas_for(learned.load.mean(now_s), model.target, config.max_replicas)
    wants = max(stable, replicas_for(model.demand, model.target, config.max_replicas))
    learned.peak.observe(wants, now_s, _memory_s(model))


def find_drained(model: ModelView, now_s: float) -> float:
    """Notes which busy replicas the load has not needed for long; when there may be more.

    Requests that are spread over too many replicas leave none of them idle.
    """
    learned = model.learned
    hold_s = _memory_s(model)
    began_s = learned.load.since_s
    if now_s < learned.panic_until_s or began_s is None:
        return learned.panic_until_s
    if now_s < began_s + hold_s:
        return began_s + hold_s
    floor, next_step_s = step(model, now_s)
    needed = max(model.keep, learned.peak.points[0][1])
    idle = sum(each.phase is READY and not each.ongoing for each in model.live.values())
    surplus = model.ready - idle - needed
    if surplus > 0 and model.ready <= floor:
        return inf if next_step_s is None else next_step_s
    if surplus > 0:
        busy = sorted(
            (each.ongoing, worker_id)
            for worker_id, each in model.live.items()
            if each.phase is READY and each.ongoing
        )
        count = min(surplus, model.ready - floor)
        model.drains = tuple(worker_id for _, worker_id in busy[:count])
    falls_s = learned.peak.falls_s(hold_s)
    due_s = inf if falls_s is None or falls_s <= now_s else falls_s
    by_demand = replicas_for(model.demand, model.target, model.snapshot.config.max_replicas)
    if learned.peak.points[-1][1] > by_demand and not learned.load.settled(now_s):
        due_s = min(due_s, now_s + learned.load.width_s)  # the average is still falling
    return due_s


def _memory_s(model: ModelView) -> float:
    """How long the load must have needed less before a busy replica is drained."""
    stable_s = model.snapshot.config.panic.stable_window_s
    return max(surplus_timeout_s(model), stable_s)
