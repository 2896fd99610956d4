"""Gathers what a plan needs: the source's headers, measured links, a platform's past. No weights.

The loader and transformers import torch, which takes seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from pilotlight_autoscaler import PoolConfig, Tier
from pilotlight_autoscaler.first_tokens import Seen
from pilotlight_autoscaler.planning.keep_for import KeepFor
from pilotlight_autoscaler.planning.knowledge import Knowledge, Neighbour, Weights
from pilotlight_autoscaler.planning.options import Situation, Variant
from pilotlight_autoscaler.planning.plan import Plan, make_plan
from pilotlight_autoscaler.sources import DEFAULT_BYTES_PER_S
from pilotlight_deploy.caching import from_loader
from pilotlight_deploy.store_link import remote_place
from pilotlight_loader import LoaderError
from pilotlight_platform.engine.planned_weights import PlannedWeights, plan_weights
from pilotlight_platform.links import Links, read_links
from pilotlight_platform.schemas.model import (
    ModelRecord,
    ModelSpec,
    ModelStatus,
    Quantization,
)
from pilotlight_platform.settings import Settings

# Of fewer bits than each, the ones that are proposed: fp8 has int8's bytes and is slower on a CPU.
_FEWER: dict[Quantization, tuple[Quantization, ...]] = {
    "none": ("int8", "int4"),
    "int8": ("int4",),
    "fp8": ("int4",),
    "int4": (),
}
# What a model file says of the weights themselves.
_SHAPING = (
    "source",
    "revision",
    "dtype",
    "quantization",
    "quantization_uniform",
    "quantization_rounding",
    "quantization_text",
    "quantization_skip",
    "sparsity",
)
_SAME_SHARE = 0.01  # of the bytes: alignment, and parameters that are counted once or twice
_HEADER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Past:
    """What a running platform knows."""

    url: str
    models: list[ModelStatus] = field(default_factory=list)
    worker_bytes: int = 0  # that its largest worker holds
    keep_for: KeepFor | None = None


@dataclass(frozen=True, slots=True)
class LinkUsed:
    bytes_per_s: float
    measured: bool  # else a default


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan and what it stands on."""

    model: str
    source: str
    place: str | None  # None: on this machine
    weights: PlannedWeights
    quantization: Quantization
    links: dict[Tier, LinkUsed]
    platform: str | None  # whose cold starts were looked at
    own_starts: int  # of these very weights
    other_starts: int
    plan: Plan

    def values(self) -> dict[str, Any]:
        """For JSON."""
        plan = self.plan
        return {
            "model": self.model,
            "source": self.source,
            "place": self.place,
            "weights": asdict(self.weights),
            "links": {tier: asdict(link) for tier, link in self.links.items()},
            "platform": self.platform,
            "cold_starts_seen": {"own": self.own_starts, "others": self.other_starts},
            "slo": None if plan.slo is None else plan.slo.bounds(),
            "tiers": [asdict(each) for each in plan.tiers],
            "starts_worker": None if plan.starts_worker is None else asdict(plan.starts_worker),
            "meets": plan.meets,
            "meets_while_cached": None if plan.slo is None else plan.meets_while_cached,
            "cheapest": None if plan.cheapest is None else asdict(plan.cheapest),
            "floor": None if plan.floor is None else asdict(plan.floor),
            "options": [asdict(each) for each in plan.options],
        }


def plan_model(
    spec: ModelSpec, pool: PoolConfig | None, settings: Settings, past: Past | None
) -> PlanReport:
    """The plan for *spec*, before it is deployed; *pool* is that of a cluster file.

    Raises CliError or SourceError where the source cannot be opened or served.
    """
    kinds = (spec.quantization, *(() if spec.sparsity != "none" else _FEWER[spec.quantization]))
    try:
        place = remote_place(spec.source)
        planned = plan_weights(spec, kinds)
    except LoaderError as error:
        raise from_loader(error) from error
    rates = _rates(read_links(settings.home), place)
    knowledge = _knowledge(spec, planned, rates, past)
    situation = Situation(
        config=spec.autoscaling,
        pool=pool or settings.pool_config,
        worker_bytes=(past.worker_bytes if past else 0) or settings.worker_capacity_bytes,
        worker_slots=settings.worker_max_replicas,
        memory_bytes=int(psutil.virtual_memory().total),
        arena_bytes=settings.arena_bytes,
        keep_for=None if past is None else past.keep_for,
    )
    plan = make_plan(_variants(planned, kinds), situation, knowledge, remote=place is not None)
    used = {forecast.tier for forecast in plan.tiers}
    return PlanReport(
        model=spec.name,
        source=spec.source,
        place=place,
        weights=planned,
        quantization=spec.quantization,
        links={
            tier: LinkUsed(rates.get(tier, default), tier in rates)
            for tier, default in DEFAULT_BYTES_PER_S.items()
            if tier in used
        },
        platform=None if past is None else past.url,
        own_starts=sum(seen.count for seen in knowledge.own.values()),
        other_starts=sum(seen.count for each in knowledge.others for seen in each.seen.values()),
        plan=plan,
    )


def _variants(planned: PlannedWeights, kinds: tuple[Quantization, ...]) -> tuple[Variant, ...]:
    """The file's own first; fewer bits only where that is fewer bytes."""
    found: list[Variant] = []
    for kind in kinds:
        nbytes = planned.nbytes[kind]
        if found and nbytes >= found[-1].weights.nbytes:
            continue
        weights = Weights(nbytes, planned.plain_nbytes, planned.source_nbytes, planned.layers)
        found.append(Variant(kind, weights, len(found)))
    return tuple(found)


def _rates(links: Links | None, place: str | None) -> dict[Tier, float]:
    """Measured ones only."""
    floors = {} if links is None else links.floors(place or "")
    return {Tier(tier): rate for tier, rate in floors.items() if tier in tuple(Tier)}


def _knowledge(
    spec: ModelSpec, planned: PlannedWeights, rates: dict[Tier, float], past: Past | None
) -> Knowledge:
    own: dict[Tier, Seen] = {}
    others: list[Neighbour] = []
    # The model itself first; the same weights start alike under whatever name.
    for model in sorted(
        [] if past is None else past.models, key=lambda each: each.name != spec.name
    ):
        if model.cold_starts is None or not model.cold_starts.actual:
            continue
        if not _same_weights(model.record, spec, planned):
            compute_nbytes = model.record.revision.compute_nbytes
            others.append(Neighbour(compute_nbytes, model.cold_starts.actual))
        elif not own:
            own = model.cold_starts.actual
    return Knowledge(rates, own, tuple(others))


def _same_weights(record: ModelRecord, spec: ModelSpec, planned: PlannedWeights) -> bool:
    """Whether a deploy of *spec* would bake what *record* is of, as far as no weight is read.

    What the source is called says little: it may hold something else by now.
    """
    if any(getattr(record.spec, field) != getattr(spec, field) for field in _SHAPING):
        return False
    revision = record.revision
    pairs = [(revision.compute_nbytes, planned.plain_nbytes)]
    if not planned.estimated:
        pairs.append((revision.nbytes, planned.nbytes[spec.quantization]))
    return all(abs(was - now) <= _SAME_SHARE * now + _HEADER_BYTES for was, now in pairs)
