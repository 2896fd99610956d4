"""How soon, and how many at once, a load gets the further replicas that it asks for."""

from __future__ import annotations

from math import ceil, inf

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.demand import replicas_for
from pilotlight_autoscaler.model_view import ModelView


def granted(
    model: ModelView, want: int, rule: Rule, floor: int, now_s: float
) -> tuple[int, Rule, float]:
    """Of *want* replicas, how many to have now, by which rule, and when to ask for more.

    While none is ready everything is granted at once, and *floor* is at any time. So is what was
    granted before and has not come yet, or was lost. Reckoned from the ready replicas, not from
    those on their way: asked again, the same decision grants no more.
    """
    learned, config = model.learned, model.snapshot.config
    delay_s, factor = config.upscale_delay_s, config.upscaling_factor
    if not model.ready or (delay_s == 0 and factor == 1):
        learned.granted, learned.rising_since_s = want, None
        return want, rule, inf
    live = model.ready + model.attaching
    # Bounded before rounding: a large factor may go beyond any number of replicas.
    step = min(factor * (want - model.ready), config.max_replicas)
    aim = min(model.ready + ceil(step * (1 - 1e-9)), config.max_replicas)
    learned.granted = max(min(learned.granted, max(want, aim)), model.ready)
    least = max(live, floor, learned.granted)
    # A panic is remembered longer than the load asks for what it wants.
    if want <= least or (rule is Rule.PANIC and _load_wants(model, now_s) <= least):
        want = min(want, least)
        if want > model.ready:
            want = max(want, learned.granted)  # a factor may have granted more than that
        # A load that falls for a moment does not begin the delay anew.
        if learned.rising_since_s is not None and _mean_wants(model, now_s) > least:
            return want, rule, now_s + learned.load.width_s
        learned.rising_since_s = None
        return want, rule, inf
    if learned.rising_since_s is None:
        learned.rising_since_s = now_s
    due_s = learned.rising_since_s + delay_s
    least_rule = Rule.FLOOR if least == floor > live else rule
    if now_s < due_s:
        return least, least_rule, due_s
    if aim <= least:
        return least, least_rule, inf
    learned.granted = aim
    return aim, rule, now_s + learned.load.width_s  # by then the load may ask for no more


def _load_wants(model: ModelView, now_s: float) -> int:
    """Replicas for the load of this moment or its means, whichever is more."""
    now = replicas_for(model.demand, model.target, model.snapshot.config.max_replicas)
    return max(now, _mean_wants(model, now_s))


def _mean_wants(model: ModelView, now_s: float) -> int:
    """Replicas for the mean of the stable or of the panic window, whichever is more."""
    load, config = model.learned.load, model.snapshot.config
    mean = max(load.mean(now_s), load.mean(now_s, config.panic.window_s))
    return replicas_for(mean, model.target, config.max_replicas)
