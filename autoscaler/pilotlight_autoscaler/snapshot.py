"""What the policy sees: one frozen picture of the cluster; times are seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pilotlight_autoscaler.config import AutoscalingConfig


class Phase(StrEnum):
    """Where a replica is in its life."""

    ATTACHING = "attaching"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """One revision attached (or being attached) to one worker."""

    model: str
    revision_id: str
    nbytes: int  # weights it holds, also while draining
    phase: Phase
    since_s: float  # when it entered this phase
    ongoing: int  # requests running in it now
    idle_since_s: float | None  # None while ongoing > 0 or attaching


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A warm process: what it can hold and what it holds."""

    worker_id: str
    node_id: str
    capacity_bytes: int  # weights that may be attached at once
    max_replicas: int
    replicas: tuple[ReplicaSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One live model: what it needs and what is asked of it."""

    name: str
    revision_id: str  # replicas of any other revision are obsolete
    nbytes: int  # weights of one replica
    config: AutoscalingConfig
    queued: int = 0  # requests waiting in gateways
    oldest_queued_since_s: float | None = None
    cold_start_s: float = 1.0  # what one start costs its waiters
    last_used_s: float = 0.0
    requests_per_s: float = 0.0  # recent arrival rate, for the eviction order
    retry_at_s: float = 0.0  # after a failed attach: not before this


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Everything ``decide`` may know. Names, worker ids and a worker's revisions are unique."""

    workers: tuple[WorkerSnapshot, ...] = ()
    models: tuple[ModelSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach a model's revision to a worker, after detaching the named idle revisions from it."""

    model: str
    revision_id: str
    worker_id: str
    evict: tuple[str, ...]  # revision ids
    reason: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Detach an idle revision from a worker."""

    model: str
    revision_id: str
    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A model that lacks a replica, and why no worker could take it."""

    model: str
    reason: str
    permanent: bool  # larger than every worker: waiting will not help


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and when to look again if nothing happens before.

    Attaches to one worker are in order: a later one may use what an earlier one's evictions free.
    """

    attach: tuple[Attach, ...] = ()
    detach: tuple[Detach, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    wake_at_s: float | None = None
