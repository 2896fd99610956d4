"""How many replicas a model wants now, from its load alone, and by which rule."""

from __future__ import annotations

import math

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.model_view import ModelView

# Names, not members of their enum: see snapshot.
_FLOOR, _FROM_ZERO, _HOLDS = Rule.FLOOR, Rule.FROM_ZERO, Rule.HOLDS
_LOAD, _PANIC, _QUEUE = Rule.LOAD, Rule.PANIC, Rule.QUEUE


def replicas_for(load: float, per_replica: float, limit: int) -> int:
    """Replicas that carry *load*; 6 requests at 5.6 each want 2."""
    # Bounded before rounding (a tiny target divides to infinity); a hair less than the quotient, so
    # that 28 / 5.6 = 5.000000000000001 is 5.
    return math.ceil(min(load / per_replica, limit) * (1 - 1e-9))


def floor_replicas(config: AutoscalingConfig, now_s: float) -> int:
    """``min_replicas``, or more while a scheduled floor holds."""
    floors = (each.min_replicas for each in config.schedule if each.covers(now_s))
    return max(config.min_replicas, *floors, 0) if config.schedule else config.min_replicas


def occupied_replicas(model: ModelView, floor: int) -> int:
    """Replicas that an eviction must leave: what the demand fills, without the target's headroom.

    Queued requests are about to enter the replicas, so with any of them nothing is headroom.
    """
    config = model.snapshot.config
    per_replica = model.target if model.queued else config.max_ongoing_requests
    return max(floor, replicas_for(model.demand, per_replica, config.max_replicas))


def wanted_replicas(model: ModelView, floor: int, now_s: float) -> tuple[int, Rule]:
    """Replicas wanted now and the rule that wants the most. Notes the load and panics in passing.

    Monotone in the load; replicas that attach count as there.
    """
    config, learned = model.snapshot.config, model.learned
    load = model.demand
    live = model.ready + model.attaching
    lasting = lasting_load(model, live)
    learned.load.observe(lasting, now_s)
    limit = config.max_replicas
    want, rule = floor, _FLOOR
    if live == 0:
        asked = replicas_for(load, model.target, limit)
        return (asked, _FROM_ZERO) if asked > floor else (floor, rule)
    if load > model.target * live:
        want, rule = _most((want, rule), _averages(model, live, lasting, now_s))
        if model.queued:
            at_once = replicas_for(lasting, model.target, limit)
            want, rule = _most((want, rule), (at_once, _QUEUE))
    else:
        want, rule = _most((want, rule), (replicas_for(load, model.target, limit), _HOLDS))
    if now_s < learned.panic_until_s:
        want, rule = _most((want, rule), (learned.panic_replicas, _PANIC))
    else:
        learned.panic_replicas = 0
    return max(floor, min(want, limit)), rule


def kept_replicas(model: ModelView, want: int, now_s: float) -> int:
    """Replicas that idleness must leave: what the load wants at this moment, all in a panic."""
    learned, config = model.learned, model.snapshot.config
    if now_s < learned.panic_until_s:
        return max(want, model.ready)
    return max(want, replicas_for(model.demand, model.target, config.max_replicas))


def ended_meanwhile(model: ModelView, live: int) -> float:
    """Requests that *live* replicas end while another starts; 0 if their length is not known."""
    service_s = model.service_s
    if service_s <= 0:
        return 0.0
    return live * model.target * model.cold_start_s / service_s


def lasting_load(model: ModelView, live: int) -> float:
    """The load that another replica would find when it is ready. No herd for a queue that is
    served before: it counts only as far as it fills the replicas that are there.
    """
    demand = model.demand
    if live == 0 or not model.queued:
        return demand
    left = max(0.0, model.queued - ended_meanwhile(model, live))
    return max(min(demand, live * model.target), model.ongoing + left)


def _averages(model: ModelView, live: int, lasting: float, now_s: float) -> tuple[int, Rule]:
    config, learned = model.snapshot.config, model.learned
    panic, limit = config.panic, config.max_replicas
    stable = replicas_for(learned.load.mean(now_s), model.target, limit)
    sudden = replicas_for(learned.load.mean(now_s, panic.window_s), model.target, limit)
    oldest_s = model.oldest_queued_since_s
    late = bool(model.queued) and oldest_s is not None
    late = late and now_s >= (oldest_s or 0.0) + panic.queue_slo_s
    if late:
        sudden = replicas_for(lasting, model.target, limit)
    if late or sudden >= panic.threshold * live:
        learned.panic_until_s = now_s + panic.stable_window_s
        learned.panic_replicas = max(learned.panic_replicas, sudden)
        return max(sudden, stable), _PANIC
    return stable, _LOAD


def _most(one: tuple[int, Rule], other: tuple[int, Rule]) -> tuple[int, Rule]:
    return other if other[0] > one[0] else one
