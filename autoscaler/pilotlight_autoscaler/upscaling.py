"""How soon, and how many at once, a load gets the further replicas that it asks for."""

from __future__ import annotations

from math import ceil, inf

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.model_view import ModelView


def granted(
    model: ModelView, want: int, rule: Rule, floor: int, now_s: float
) -> tuple[int, Rule, float]:
    """Of *want* replicas, how many to have now, by which rule, and when to ask for more.

    While none is ready everything is granted at once, and *floor* is at any time. Reckoned from the
    ready replicas, not from those on their way: asked again, the same decision grants no more.
    """
    learned, config = model.learned, model.snapshot.config
    delay_s, factor = config.upscale_delay_s, config.upscaling_factor
    live = model.ready + model.attaching
    least = max(live, floor)
    if want <= least or not model.ready or (delay_s == 0 and factor == 1):
        learned.rising_since_s = None
        return want, rule, inf
    if learned.rising_since_s is None:
        learned.rising_since_s = now_s
    due_s = learned.rising_since_s + delay_s
    if now_s < due_s:
        return least, Rule.FLOOR if floor > live else rule, due_s
    # Bounded before rounding: a large factor may go beyond any number of replicas.
    step = min(factor * (want - model.ready), config.max_replicas)
    aim = min(model.ready + ceil(step * (1 - 1e-9)), config.max_replicas)
    return (aim, rule, inf) if aim > least else (least, Rule.FLOOR if floor > live else rule, inf)
