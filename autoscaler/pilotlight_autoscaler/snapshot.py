"""What a policy sees: frozen values; times are seconds of one clock that does not go back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pilotlight_autoscaler.config import AutoscalingConfig

UNKNOWN_COLD_START_S = 1.0


class Phase(StrEnum):
    """Where a replica is in its life."""

    ATTACHING = "attaching"
    READY = "ready"
    DRAINING = "draining"


# For what runs at every event: an enum's class looks a member up in ten times the time of a name.
ATTACHING: Final = Phase.ATTACHING
READY: Final = Phase.READY
DRAINING: Final = Phase.DRAINING


class Tier(StrEnum):
    """Where weights are read from, nearest first."""

    HOST = "host"
    DISK = "disk"
    PEER = "peer"
    REMOTE = "remote"


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
    load_queue_s: float = 0.0  # until the loads it has begun are done


@dataclass(frozen=True, slots=True)
class StartingWorker:
    """A worker process that has been asked for and has not registered yet."""

    worker_id: str
    since_s: float


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A machine: which weights are near its workers, and how fast they come.

    A revision that is not in *tiers* is remote; a tier that is not in *bytes_per_s* has not been
    measured and counts with a modest default.
    """

    node_id: str
    tiers: Mapping[str, Tier] = field(default_factory=dict)  # by revision id
    bytes_per_s: Mapping[Tier, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One live model: what it needs and what is asked of it."""

    name: str
    revision_id: str  # replicas of any other revision are obsolete
    nbytes: int  # weights of one replica
    config: AutoscalingConfig
    queued: int = 0  # requests waiting in gateways
    oldest_queued_since_s: float | None = None
    cold_start_s: float = UNKNOWN_COLD_START_S  # until one has been measured
    service_s: float = 0.0  # what one request takes in a replica; 0: not known
    requests_per_s: float = 0.0  # arrival rate, as long as no idle gaps have been measured
    retry_at_s: float = 0.0  # after a failed attach: not before this


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """The machines. Worker ids, node ids and a worker's revisions are unique."""

    workers: tuple[WorkerSnapshot, ...] = ()
    nodes: tuple[NodeSnapshot, ...] = ()
    starting: tuple[StartingWorker, ...] = ()
