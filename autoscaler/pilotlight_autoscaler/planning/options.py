"""The settings that bear on a cold start, each with its forecast and its cost in a day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pilotlight_autoscaler.config import AutoscalingConfig, KeepAliveConfig, PrewarmConfig
from pilotlight_autoscaler.planning.forecast import Forecast, forecast, warm_forecast
from pilotlight_autoscaler.planning.keep_for import KeepFor
from pilotlight_autoscaler.planning.knowledge import Knowledge, Weights
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.snapshot import Tier
from pilotlight_autoscaler.worker_view import share_of_worker

_DAY_S = 86400.0
LEAVE_OUT = "leave it out"

Kept = Literal["nothing", "page cache", "arena", "idle replica", "replica"]
Change = int | float | str


@dataclass(frozen=True, slots=True)
class Variant:
    """The model in one quantization; *loss* counts the steps away from what the file says."""

    quantization: str
    weights: Weights
    loss: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """Where it will run. 0 of a number of bytes: not known, and then no obstacle."""

    config: AutoscalingConfig
    pool: PoolConfig
    worker_bytes: int = 0  # that the largest worker holds
    worker_slots: int = 16
    memory_bytes: int = 0  # of the machine: what the page cache can keep at most
    arena_bytes: int = 0
    keep_for: KeepFor | None = None  # where pauses were seen


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """What is spent although no request runs; compared in this order."""

    worker_seconds_per_day: float = 0.0  # kept for this model, idle or not
    loss: int = 0  # steps towards fewer bits: answers change a little
    locked_bytes: int = 0  # memory that nothing else can use
    cached_bytes: int = 0  # memory that the kernel takes back when it is short


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run the model."""

    kept: Kept  # between requests
    quantization: str
    changes: Mapping[str, Change]  # to the files, by place; empty: as they are
    forecast: Forecast
    cost: Cost
    cold_share: float  # of the requests after a pause: how many find no replica
    # The same from the disk, where nothing keeps the pages in memory that `forecast` finds there.
    uncached: Forecast | None = None
    meets: bool | None = None  # whatever the page cache has lost; None: there is no SLO
    meets_cached: bool | None = None  # as long as it has lost nothing

    @property
    def as_written(self) -> bool:
        return not self.changes


@dataclass(frozen=True, slots=True)
class _Pool:
    changes: Mapping[str, Change] = field(default_factory=dict)
    starts_worker: bool = False
    worker_seconds_per_day: float = 0.0


def options(
    variants: tuple[Variant, ...], situation: Situation, knowledge: Knowledge
) -> tuple[Option, ...]:
    """Every combination, cheapest first. *variants*: the file's own quantization first.

    Those that no worker can hold are left out.
    """
    found: list[Option] = []
    own = variants[0].weights
    # Also of fewer bits: those are to make a start fast enough, not to make a replica's room small.
    share = share_of_worker(own.nbytes, situation.worker_bytes, situation.worker_slots)
    for variant in variants:
        if 0 < situation.worker_bytes < variant.weights.nbytes:
            continue
        known = (
            knowledge if variant is variants[0] else knowledge.of_other_weights(own.compute_nbytes)
        )
        for pool in _pools(situation.pool):
            found += _from_zero(variant, situation, pool, known, share)
        found.append(_always_there(variant, situation, known, share))
    slo = situation.config.cold_start_slo
    if slo is not None:
        found = [
            # Where no request finds it cold, what its first token takes is still the promise.
            replace(
                each,
                meets=slo.met_by((each.uncached or each.forecast).seconds),
                meets_cached=slo.met_by(each.forecast.seconds),
            )
            for each in found
        ]
    return tuple(sorted(found, key=lambda each: (each.cost, len(each.changes))))


def may_be_empty(pool: PoolConfig) -> bool:
    """Whether a cold start may find no worker, as nothing was in use."""
    return pool.min_workers == 0


def may_be_full(pool: PoolConfig) -> bool:
    """Whether it may find only workers that others fill, while more could be started."""
    return pool.buffer_workers == 0 and max(1, pool.min_workers) < pool.max_workers


def _pools(pool: PoolConfig) -> Iterator[_Pool]:
    """As it is, and so that a worker is always warm, where it is not."""
    empty, full = may_be_empty(pool), may_be_full(pool)
    if not empty and not full:
        yield _Pool()
        return
    yield _Pool(starts_worker=True)
    changes: dict[str, Change] = {}
    if empty:
        changes["pool.min_workers"] = 1  # buffer_workers are kept only while a model is in use
    if full:
        changes["pool.buffer_workers"] = 1
    # The one stands idle while nothing is in use, the other while something is.
    yield _Pool(changes, worker_seconds_per_day=_DAY_S)


def _from_zero(
    variant: Variant, situation: Situation, pool: _Pool, knowledge: Knowledge, share: float
) -> Iterator[Option]:
    weights, config = variant.weights, situation.config
    changes = _changes(variant, pool)
    if config.min_replicas:
        changes["autoscaling.min_replicas"] = 0
    base = Option(
        "nothing",
        variant.quantization,
        changes,
        forecast(weights, Tier.DISK, knowledge, starts_worker=pool.starts_worker),
        Cost(pool.worker_seconds_per_day, variant.loss),
        1.0,
    )
    yield base
    in_memory = replace(
        base, forecast=forecast(weights, Tier.HOST, knowledge, starts_worker=pool.starts_worker)
    )
    cached = replace(in_memory, uncached=base.forecast)
    if not 0 < situation.memory_bytes < weights.nbytes:
        cost = replace(base.cost, cached_bytes=weights.nbytes)
        yield replace(cached, kept="page cache", cost=cost)
        arena = (
            {}
            if situation.arena_bytes >= weights.nbytes
            else {"PILOTLIGHT_ARENA_BYTES": weights.nbytes}
        )
        cost = replace(base.cost, locked_bytes=weights.nbytes)
        yield replace(in_memory, kept="arena", cost=cost, changes={**changes, **arena})
    keep = situation.keep_for
    if keep is None or config.min_replicas or pool.starts_worker or variant.loss:
        return
    idle_s = _DAY_S * keep.resident_share * share
    yield replace(
        cached,
        kept="idle replica",
        changes={
            **changes,
            "autoscaling.idle_timeout_s": keep.keep_s,
            **_without(config, prewarm=False),
        },
        cost=replace(base.cost, worker_seconds_per_day=pool.worker_seconds_per_day + idle_s),
        cold_share=keep.cold_share,
    )


def _always_there(
    variant: Variant, situation: Situation, knowledge: Knowledge, share: float
) -> Option:
    config = situation.config
    changes = _changes(variant, _Pool())
    if not config.min_replicas:
        changes["autoscaling.min_replicas"] = 1
        if config.max_replicas == 1:
            changes |= _without(config, prewarm=True)
    replicas = max(1, config.min_replicas)
    kept_s = _DAY_S * replicas * share
    return Option(
        "replica",
        variant.quantization,
        changes,
        warm_forecast(variant.weights, knowledge),
        Cost(kept_s, variant.loss),
        0.0,
    )


def _changes(variant: Variant, pool: _Pool) -> dict[str, Change]:
    changes = dict(pool.changes)
    if variant.loss:
        changes["quantization"] = variant.quantization
    return changes


def _without(config: AutoscalingConfig, *, prewarm: bool) -> dict[str, Change]:
    """What would be refused beside the change."""
    changes: dict[str, Change] = {}
    if config.keep_alive != KeepAliveConfig():
        changes["autoscaling.keep_alive"] = LEAVE_OUT
    if prewarm and config.prewarm != PrewarmConfig():
        changes["autoscaling.prewarm"] = LEAVE_OUT
    return changes
