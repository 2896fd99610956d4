"""The parts of the policy that can be exchanged, so that others can be compared with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

from pilotlight_autoscaler.guard import fallback_s
from pilotlight_autoscaler.keep_alive import Windows, plan_gap, to_windows
from pilotlight_autoscaler.model_view import ModelView


class KeepAlive(ABC):
    """When an idle model has a replica."""

    @abstractmethod
    def windows(self, model: ModelView) -> Windows:
        """Ages of its idle gap; asked only where ``idle_timeout_s`` is auto."""

    def at_least_s(self, model: ModelView) -> float:
        """A lower bound of ``keep_s`` that costs nothing to know."""
        return 0.0

    def trusts(self, model: ModelView) -> bool:
        """Whether the prewarm windows may be acted upon; if not, they are only watched."""
        return True


class Residency(Protocol):
    """Which idle replica is evicted first."""

    def index(self, model: ModelView, age_s: float) -> float:
        """What staying is worth at this age of a replica's idleness; the lowest goes first.

        It may change with age only where ``gaps.EDGES_S`` has an edge, unless it falls with age
        at the same rate for all.
        """


class CostAware(KeepAlive):
    """Keep-alive and prewarming from the cost of a cold start and the gaps seen."""

    def windows(self, model: ModelView) -> Windows:
        learned = model.learned
        if model.windows is not None and model.windows_version == learned.version:
            return model.windows
        if learned.guard.active:
            cold_s = learned.cold_starts.mean_s() or model.cold_start_s
            spans = [(0.0, fallback_s(cold_s, model.weight, learned.burst.k))]
        elif learned.gaps.observed:
            spans = plan_gap(learned.gaps, model.cold_start_s, model.weight, learned.burst.k)
        else:
            spans = [(0.0, model.break_even_s)]
        keep_alive = model.config.keep_alive
        found = to_windows(
            spans, lead_s=model.lead_s, min_s=keep_alive.min_s, max_s=keep_alive.max_s
        )
        model.windows, model.windows_version = found, learned.version
        return found

    def at_least_s(self, model: ModelView) -> float:
        return model.config.keep_alive.min_s

    def trusts(self, model: ModelView) -> bool:
        learned, prewarm = model.learned, model.config.prewarm
        return (
            prewarm.enabled
            and learned.gaps.observed >= prewarm.min_observations
            and learned.hit_rate >= prewarm.min_hit_rate
        )


class WorthOfStay(Residency):
    """The residency index of the gaps seen: waiting avoided per worker-second."""

    def index(self, model: ModelView, age_s: float) -> float:
        return model.index(age_s)


@dataclass(frozen=True, slots=True)
class Rules:
    """What an Autoscaler decides by."""

    keep_alive: KeepAlive = field(default_factory=CostAware)
    residency: Residency = field(default_factory=WorthOfStay)
    hysteresis: float = 0.8  # a forecast evicts only what is worth less than this share of it
