"""What gateway, scheduler and workers tell each other. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.schemas.timeline import Tier

ReplicaPhase = Literal["attaching", "ready", "draining"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A warm worker, as it introduces itself."""

    worker_id: str  # Serve's replica id: the router targets it
    node_id: str
    pid: int
    threads: int
    capacity_bytes: int
    max_replicas: int
    memory_bytes: int = 0  # of its node
    bytes_per_s: Mapping[str, float] = field(default_factory=dict)  # there, by tier; as measured


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One revision in a worker."""

    model: str
    revision_id: str
    nbytes: int
    phase: ReplicaPhase
    since_s: float
    ongoing: int
    idle_since_s: float | None
    tier: Tier | None = None  # where its weights came from, once they are all there
    staged_s: float | None = None  # since when they are
    served: int = 0  # requests that have ended in it since it was attached
    served_s: float = 0.0  # what they took in it, together


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The whole truth about one worker; a later report replaces the ones before."""

    number: int = 0  # counts up: reports travel in several ways, an older one may arrive later
    replicas: tuple[ReplicaReport, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachOrder:
    """Detach the idle revisions in *evict*, then attach *revision_id*."""

    model: str
    revision_id: str
    path: str
    nbytes: int
    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteReplica:
    """Where a model can be reached."""

    worker_id: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A live model and its replicas of the current revision."""

    record: ModelRecord
    replicas: tuple[RouteReplica, ...] = ()
    waiting_for: str | None = None  # why there is none yet, if one was asked for
    settled: bool = False  # the replicas have room for all that waited: no need to withdraw it


@dataclass(frozen=True, slots=True)
class RoutingChange:
    """What a newer table has that its reader has not seen.

    A table travels several times a second: whole, one of 200 models takes 9 ms to pickle and 6 ms
    to read, on event loops that requests wait for.
    """

    version: int
    routes: dict[str, Route]
    gone: tuple[str, ...]
    workers: tuple[WorkerInfo, ...]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every live model; each table replaces the one before."""

    version: int = 0
    routes: dict[str, Route] = field(default_factory=dict)
    workers: tuple[WorkerInfo, ...] = ()

    def since(self, seen: RoutingTable) -> RoutingChange:
        """What leads from *seen*, an older table, to this one."""
        routes = {
            name: route for name, route in self.routes.items() if seen.routes.get(name) != route
        }
        gone = tuple(seen.routes.keys() - self.routes.keys())
        return RoutingChange(self.version, routes, gone, self.workers)

    def changed(self, change: RoutingChange) -> RoutingTable:
        """The table after *change*, with a ``routes`` of its own."""
        routes = {**self.routes, **change.routes}
        for name in change.gone:
            routes.pop(name, None)
        return RoutingTable(change.version, routes, change.workers)
