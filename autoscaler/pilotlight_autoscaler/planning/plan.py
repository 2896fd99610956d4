"""What a model's cold starts will take, and the cheapest settings that keep its SLO."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_autoscaler.cold_start_slo import ColdStartSlo
from pilotlight_autoscaler.planning.forecast import Forecast, SpanForecast, forecast
from pilotlight_autoscaler.planning.knowledge import Knowledge
from pilotlight_autoscaler.planning.options import (
    Option,
    Situation,
    Variant,
    may_be_empty,
    may_be_full,
    options,
)
from pilotlight_autoscaler.snapshot import Tier


@dataclass(frozen=True, slots=True)
class Plan:
    """Forecasts of the file as it is, and the ways to run it, cheapest first."""

    slo: ColdStartSlo | None
    tiers: tuple[Forecast, ...]  # with a warm worker
    starts_worker: Forecast | None  # where the pool may have none: from memory, a worker started
    options: tuple[Option, ...]

    @property
    def cheapest(self) -> Option | None:
        """Of those that meet the SLO; None: none does, or there is none."""
        return next((each for each in self.options if each.meets), None)

    @property
    def meets(self) -> bool | None:
        """Whether the files meet the SLO as they are."""
        if self.slo is None:
            return None
        return any(each.meets for each in self.options if each.as_written)

    @property
    def meets_while_cached(self) -> bool:
        """Whether the files as they are meet it as long as the page cache has the weights."""
        return any(each.meets_cached for each in self.options if each.as_written)

    @property
    def floor(self) -> SpanForecast | None:
        """The longest span of the fastest way: what would have to be shorter."""
        if not self.options:
            return None
        fastest = min(self.options, key=lambda each: each.forecast.seconds.p95)
        return fastest.forecast.longest


def make_plan(
    variants: tuple[Variant, ...],
    situation: Situation,
    knowledge: Knowledge,
    *,
    remote: bool,
) -> Plan:
    """*variants*: the file's own quantization first. *remote*: the source is not on this machine.

    Raises InputError for bytes that are none.
    """
    weights = variants[0].weights
    tiers = (Tier.HOST, Tier.DISK, Tier.REMOTE) if remote else (Tier.HOST, Tier.DISK)
    starts = may_be_empty(situation.pool) or may_be_full(situation.pool)
    return Plan(
        slo=situation.config.cold_start_slo,
        tiers=tuple(forecast(weights, tier, knowledge) for tier in tiers),
        starts_worker=forecast(weights, Tier.HOST, knowledge, starts_worker=True)
        if starts
        else None,
        options=options(variants, situation, knowledge),
    )
