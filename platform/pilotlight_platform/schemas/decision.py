"""Decisions and their reasons, as the platform keeps and reports them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_autoscaler.planning.keep_for import KeepFor

Action = Literal["attach", "prewarm", "evict", "detach", "drain", "hold", "unplaced", "resize"]


class DecisionRecord(BaseModel):
    """What was done about a model, or the pool, or not, and why."""

    model_config = ConfigDict(frozen=True)

    at_s: float  # Unix time
    model: str  # "" for the pool
    action: Action
    rule: str
    reason: str  # with the inputs, and what would have been needed for something else
    worker_id: str | None = None
    inputs: dict[str, float] = {}


class Explanation(BaseModel):
    """How a model, or the pool, stands now, and what led there, oldest first."""

    model: str  # "" for the pool
    now: DecisionRecord
    decisions: list[DecisionRecord]


class PrewarmWindow(BaseModel):
    """Ages of an idle gap: load at the one, let go again at the other."""

    load_age_s: float
    drop_age_s: float


class PoolStatus(BaseModel):
    """The worker pool: its settings, and how many workers there are and should be."""

    config: PoolConfig
    fixed: bool  # its size cannot be changed while the platform runs
    most_workers: int  # to which max_workers can be raised while it runs
    workers: int
    target: int | None  # None: not decided yet


class ScalingStatus(BaseModel):
    """A model's settings, and what they come to with all that was measured."""

    model: str
    config: AutoscalingConfig
    target_ongoing_requests: float
    cold_start_s: float  # L: measured, or what is assumed until then
    cold_starts_s: dict[str, float]  # median of the measured ones, by tier
    burst: float  # k
    service_s: float = 0.0  # what a request takes in a replica; 0: none has ended yet
    break_even_s: float  # T* = L (1 + w k)
    keep_s: float  # how long the last idle replica stays
    prewarm: list[PrewarmWindow]
    gaps: int  # idle gaps seen
    hit_rate: float
    floor: int  # min_replicas now, a schedule's among them
    schedule_changes_at_s: float | None  # Unix time
    keep_for: KeepFor | None = None  # a stay that leaves few pauses cold; None: too few seen
