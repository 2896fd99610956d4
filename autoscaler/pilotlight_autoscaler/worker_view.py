"""A worker in the mirror: its room, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from pilotlight_autoscaler.replica_view import ReplicaView
from pilotlight_autoscaler.snapshot import ATTACHING, WorkerSnapshot

if TYPE_CHECKING:
    from pilotlight_autoscaler.model_view import ModelView


@dataclass(frozen=True, slots=True, eq=False)
class IdleReplica:
    """A ready replica that serves nothing, and what it costs to lose it."""

    replica: ReplicaView
    owner: ModelView | None  # None: its revision is obsolete
    idle_since_s: float
    leaves_at_s: float  # it goes then although nobody needs its room
    resident_until_s: float  # only an impatient newcomer evicts it before
    index: float  # what its stay is worth; -inf: nothing

    @property
    def worth(self) -> float:
        """Waiting, in worker-seconds, that it saves in each second of its stay."""
        return 0.0 if self.owner is None else max(0.0, self.index) * self.owner.share


class WorkerView:
    """One worker. ``idle`` stands in the order of eviction until something here changes."""

    __slots__ = (
        "attaching",
        "capacity_bytes",
        "free_bytes",
        "free_slots",
        "idle",
        "idle_until_s",
        "least_worth",
        "ongoing",
        "replicas",
        "snapshot",
        "worker_id",
    )

    def __init__(self, snapshot: WorkerSnapshot) -> None:
        self.worker_id = snapshot.worker_id
        self.snapshot = snapshot
        self.capacity_bytes = self.free_bytes = snapshot.capacity_bytes
        self.free_slots = snapshot.max_replicas
        self.ongoing = self.attaching = 0
        self.replicas: dict[str, ReplicaView] = {}  # by revision
        self.idle: list[IdleReplica] | None = None  # None: to be drawn up again
        self.idle_until_s = inf  # the order may be another from here on
        self.least_worth = inf  # of those

    def resize(self, snapshot: WorkerSnapshot) -> None:
        self.free_bytes += snapshot.capacity_bytes - self.snapshot.capacity_bytes
        self.free_slots += snapshot.max_replicas - self.snapshot.max_replicas
        self.capacity_bytes = snapshot.capacity_bytes
        self.snapshot = snapshot

    def hold(self, replica: ReplicaView) -> None:
        self.replicas[replica.revision_id] = replica
        self.free_bytes -= replica.nbytes
        self.free_slots -= 1
        self.ongoing += replica.ongoing
        self.attaching += replica.phase is ATTACHING
        self.idle = None

    def release(self, revision_id: str) -> ReplicaView:
        replica = self.replicas.pop(revision_id)
        self.free_bytes += replica.nbytes
        self.free_slots += 1
        self.ongoing -= replica.ongoing
        self.attaching -= replica.phase is ATTACHING
        self.idle = None
        return replica


def share_of_worker(nbytes: float, capacity_bytes: float, slots: int) -> float:
    """How much of a worker one replica takes; 0 of either bound: not known."""
    share = nbytes / capacity_bytes if capacity_bytes else 1.0
    # In a worker of one slot, the smallest model takes all of it.
    return max(1e-9, 1 / slots if slots else 0.0, min(1.0, share))
