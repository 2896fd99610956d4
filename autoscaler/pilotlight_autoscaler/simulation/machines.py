"""Replicas, workers, nodes and models while a simulation runs; they refuse the impossible."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import InitVar, dataclass, field

from pilotlight_autoscaler.simulation.errors import InvariantError
from pilotlight_autoscaler.simulation.setting import Links, Pool, SimulatedModel
from pilotlight_autoscaler.simulation.trace import US_PER_S
from pilotlight_autoscaler.snapshot import (
    ATTACHING,
    ModelSnapshot,
    NodeSnapshot,
    Phase,
    ReplicaSnapshot,
    Tier,
    WorkerSnapshot,
)

_HOST, _DISK, _REMOTE = Tier.HOST, Tier.DISK, Tier.REMOTE  # names: see snapshot


@dataclass(slots=True, eq=False)
class Replica:
    """A model on a worker. ``idle_since_us`` is None while it serves or loads."""

    model: Model
    worker: Worker
    since_us: int
    tier: Tier
    phase: Phase = ATTACHING
    ongoing: int = 0
    idle_since_us: int | None = None
    busy_since_us: int = 0
    prewarmed: bool = False  # and not used since
    present: bool = True
    reported: bool = True  # whether the policy knows its state
    patient: bool = False  # whether the policy need not be asked about the change at once

    def snapshot(self) -> ReplicaSnapshot:
        model, idle_us = self.model, self.idle_since_us
        return ReplicaSnapshot(
            model.name,
            model.name,
            model.nbytes,
            self.phase,
            self.since_us / US_PER_S,
            self.ongoing,
            None if idle_us is None else idle_us / US_PER_S,
        )


@dataclass(slots=True, eq=False)
class Model:
    """A model's queue (indices of requests) and its ready replicas."""

    index: int
    spec: SimulatedModel
    pool: InitVar[Pool]
    queue: deque[int] = field(default_factory=deque)
    ready: list[Replica] = field(default_factory=list)
    unfinished: int = 0  # queued and running
    queue_reported: bool = True
    name: str = field(init=False)
    nbytes: int = field(init=False)
    max_ongoing: int = field(init=False)
    share: float = field(init=False)  # of a worker that a replica takes

    def __post_init__(self, pool: Pool) -> None:
        spec = self.spec
        self.name, self.nbytes = spec.name, spec.nbytes
        self.max_ongoing = spec.config.max_ongoing_requests
        self.share = max(1 / pool.max_replicas, spec.nbytes / pool.capacity_bytes)

    def snapshot(self) -> ModelSnapshot:
        """As it is before its first request."""
        spec = self.spec
        return ModelSnapshot(
            spec.name, spec.name, spec.nbytes, spec.config, cold_start_s=spec.cold_start_s
        )


@dataclass(slots=True, eq=False)
class Worker:
    """What fits and what is there, by the model's name."""

    worker_id: str
    node: Node
    pool: InitVar[Pool]
    since_us: int
    used_bytes: int = 0
    replicas: dict[str, Replica] = field(default_factory=dict)
    capacity_bytes: int = field(init=False)
    max_replicas: int = field(init=False)

    def __post_init__(self, pool: Pool) -> None:
        self.capacity_bytes, self.max_replicas = pool.capacity_bytes, pool.max_replicas

    def add(self, replica: Replica) -> None:
        model = replica.model
        if model.name in self.replicas:
            raise InvariantError(f"{self.worker_id} has {model.name} already")
        if self.used_bytes + model.nbytes > self.capacity_bytes:
            raise InvariantError(f"{self.worker_id} has no room for {model.name}")
        if len(self.replicas) >= self.max_replicas:
            raise InvariantError(f"{self.worker_id} has no slot for {model.name}")
        self.replicas[model.name] = replica
        self.used_bytes += model.nbytes

    def remove(self, replica: Replica) -> None:
        model = replica.model
        if replica.ongoing:
            raise InvariantError(f"{model.name} is stopped with {replica.ongoing}")
        replica.present = False
        del self.replicas[model.name]
        self.used_bytes -= model.nbytes

    def snapshot(self) -> WorkerSnapshot:
        return WorkerSnapshot(
            self.worker_id,
            self.node.node_id,
            self.capacity_bytes,
            self.max_replicas,
            tuple(replica.snapshot() for replica in self.replicas.values()),
        )


class Node:
    """Where weights are on a machine: a host cache (least recently used goes) over its disk."""

    def __init__(self, node_id: str, pool: Pool, on_disk: tuple[str, ...]) -> None:
        self.node_id = node_id
        self._links = pool.links
        self._host_bytes = pool.host_cache_bytes
        self._host: OrderedDict[str, int] = OrderedDict()
        self._disk = set(on_disk)
        self.loads = {tier: SharedLink(rate) for tier, rate in speeds(pool.links).items()}

    def tier(self, name: str) -> Tier:
        if name in self._host:
            return _HOST
        return _DISK if name in self._disk else _REMOTE

    def keep(self, spec: SimulatedModel) -> bool:
        """Weights that came stay on disk, and in the host cache if they fit; is anything new?"""
        before = self.tier(spec.name)
        self._disk.add(spec.name)
        if spec.nbytes > self._host_bytes:
            return before is _REMOTE
        self._host.pop(spec.name, None)
        self._host[spec.name] = spec.nbytes
        while sum(self._host.values()) > self._host_bytes:
            self._host.popitem(last=False)
        return self.tier(spec.name) is not before

    def snapshot(self) -> NodeSnapshot:
        tiers = dict.fromkeys(sorted(self._disk), Tier.DISK) | dict.fromkeys(self._host, Tier.HOST)
        return NodeSnapshot(self.node_id, tiers, speeds(self._links))


def speeds(links: Links) -> dict[Tier, float]:
    return {tier: links.bytes_per_s(tier) for tier in (Tier.HOST, Tier.DISK, Tier.REMOTE)}


class SharedLink:
    """Loads that share one link equally: each goes on at 1/n of its speed alone."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._left_us: dict[Replica, float] = {}  # alone on the link
        self._at_us = 0
        self.version = 0  # changes with every change: an event of an older one is void

    def begin(self, replica: Replica, alone_us: float, now_us: int) -> None:
        self._pass(now_us)
        self._left_us[replica] = alone_us

    def end(self, now_us: int) -> list[Replica]:
        """Those that are done by now, in the order in which they began."""
        self._pass(now_us)
        done = [replica for replica, left in self._left_us.items() if left < 1.0]
        for replica in done:
            del self._left_us[replica]
        return done

    def next_us(self) -> int | None:
        """When the next one is done if none begins before."""
        if not self._left_us:
            return None
        return self._at_us + max(1, round(min(self._left_us.values()) * len(self._left_us)))

    def _pass(self, now_us: int) -> None:
        self.version += 1
        if self._left_us:
            share_us = (now_us - self._at_us) / len(self._left_us)
            for replica in self._left_us:
                self._left_us[replica] -= share_us
        self._at_us = now_us
