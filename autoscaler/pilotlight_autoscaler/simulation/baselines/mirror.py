"""What the baselines know of the cluster, and their orders; rules of their own decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from pilotlight_autoscaler.decision import Attach, Decision, Detach, Reason, Rule
from pilotlight_autoscaler.snapshot import (
    ModelSnapshot,
    NodeSnapshot,
    Phase,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)

_ALPHA = 0.3  # of the moving average of measured cold starts


@dataclass(slots=True, eq=False)
class Known:
    """One model as a baseline sees it."""

    snapshot: ModelSnapshot
    cold_start_s: float
    queued: int = 0
    unfinished: int = 0
    last_end_s: float = 0.0  # of a request, or its last attach
    replicas: dict[str, ReplicaSnapshot] = field(default_factory=dict)  # by worker, not draining
    look_at_s: float | None = None  # its pending entry among the timers

    @property
    def name(self) -> str:
        return self.snapshot.name


@dataclass(slots=True, eq=False)
class Room:
    """A worker's room, and what is on it."""

    worker: WorkerSnapshot
    free_bytes: int
    free_slots: int
    replicas: dict[str, ReplicaSnapshot]

    def put(self, replica: ReplicaSnapshot) -> None:
        self.take(replica.revision_id)
        self.replicas[replica.revision_id] = replica
        self.free_bytes -= replica.nbytes
        self.free_slots -= 1

    def take(self, revision_id: str) -> None:
        replica = self.replicas.pop(revision_id, None)
        if replica is not None:
            self.free_bytes += replica.nbytes
            self.free_slots += 1


class Mirror:
    """The notifying half of ``Policy``; a subclass says what to do with one model at a time."""

    def __init__(self) -> None:
        self.models: dict[str, Known] = {}
        self.rooms: dict[str, Room] = {}
        self._changed: dict[str, None] = {}
        self._starved: dict[str, None] = {}  # found no room
        self._timers: list[tuple[float, str]] = []
        self._attach: list[Attach] = []
        self._detach: list[Detach] = []

    # --- Policy: what it is told

    def update_model(self, model: ModelSnapshot) -> None:
        known = self.models.get(model.name)
        if known is None:
            self.models[model.name] = Known(model, model.cold_start_s, model.queued)
        else:
            known.snapshot, known.queued = model, model.queued
        self._changed[model.name] = None

    def update_queue(self, model: str, queued: int, oldest_queued_since_s: float | None) -> None:
        self.models[model].queued = queued
        self._changed[model] = None

    def remove_model(self, name: str) -> None:
        self.models.pop(name, None)
        self._changed.pop(name, None)
        self._starved.pop(name, None)

    def update_worker(self, worker: WorkerSnapshot) -> None:
        self.remove_worker(worker.worker_id)
        room = Room(worker, worker.capacity_bytes, worker.max_replicas, {})
        self.rooms[worker.worker_id] = room
        for replica in worker.replicas:
            self.update_replica(worker.worker_id, replica)

    def update_replica(self, worker_id: str, replica: ReplicaSnapshot) -> None:
        self.rooms[worker_id].put(replica)
        known = self.models.get(replica.model)
        if known is not None:
            if replica.phase is Phase.DRAINING:
                known.replicas.pop(worker_id, None)
            else:
                known.replicas[worker_id] = replica
            self._changed[replica.model] = None

    def update_load(
        self, worker_id: str, revision_id: str, ongoing: int, idle_since_s: float | None
    ) -> None:
        old = self.rooms[worker_id].replicas[revision_id]
        self.update_replica(worker_id, replace(old, ongoing=ongoing, idle_since_s=idle_since_s))

    def remove_replica(self, worker_id: str, revision_id: str) -> None:
        replica = self.rooms[worker_id].replicas.get(revision_id)
        if replica is None:
            return  # its own order: it knows
        self.rooms[worker_id].take(revision_id)
        known = self.models.get(replica.model)
        if known is not None:
            known.replicas.pop(worker_id, None)
            self._changed[replica.model] = None

    def remove_worker(self, worker_id: str) -> None:
        room = self.rooms.pop(worker_id, None)
        for replica in room.replicas.values() if room else ():
            known = self.models.get(replica.model)
            if known is not None:
                known.replicas.pop(worker_id, None)
                self._changed[replica.model] = None

    def update_node(self, node: NodeSnapshot) -> None:
        pass

    def remove_node(self, node_id: str) -> None:
        pass

    def update_starting(self, starting: tuple[StartingWorker, ...]) -> None:
        pass

    def deployed(self, model: str) -> None:
        pass

    def arrived(self, model: str, at_s: float, requests: int = 1) -> None:
        known = self.models[model]
        if not known.unfinished:
            self.gap_closed(known, at_s)
        known.unfinished += requests
        self.asked(known, at_s)

    def finished(self, model: str, at_s: float, left: int, service_s: float | None = None) -> None:
        known = self.models[model]
        known.unfinished = left
        known.last_end_s = at_s

    def cold_started(self, model: str, tier: Tier, seconds: float) -> None:
        known = self.models[model]
        known.cold_start_s += _ALPHA * (seconds - known.cold_start_s)

    # --- Policy: what it answers

    def patience_s(self, model: str) -> float:
        return 0.0

    def decide(self, now_s: float) -> Decision:
        while self._timers and self._timers[0][0] <= now_s:
            at_s, name = heappop(self._timers)
            known = self.models.get(name)
            if known is not None and known.look_at_s == at_s:
                known.look_at_s = None
                self._changed[name] = None
        changed, self._changed = self._changed, {}
        starved, self._starved = self._starved, {}
        for name in (*starved, *(each for each in changed if each not in starved)):
            known = self.models.get(name)
            if known is not None:
                self.consider(known, now_s)
        attach, self._attach = tuple(self._attach), []
        detach, self._detach = tuple(self._detach), []
        self._changed.clear()  # what the orders did to the mirror
        return Decision(attach, detach, wake_at_s=self._timers[0][0] if self._timers else None)

    # --- for subclasses

    def consider(self, known: Known, now_s: float) -> None:
        """Order what this model needs now, and say when to look again."""
        raise NotImplementedError

    def gap_closed(self, known: Known, now_s: float) -> None:
        """A request has come while nothing ran or waited."""

    def asked(self, known: Known, now_s: float) -> None:
        """A request has come."""

    def victims(self, room: Room, known: Known, now_s: float) -> tuple[float, list[str]] | None:
        """What a worker loses, and which revisions, to take one more; None: it cannot."""
        return None

    def look_again(self, known: Known, at_s: float) -> None:
        if known.look_at_s is None or at_s < known.look_at_s:
            known.look_at_s = at_s
            heappush(self._timers, (at_s, known.name))

    def order_attach(self, known: Known, now_s: float, rule: Rule, *, evict: bool) -> bool:
        """Attach one more where there is room, else, if *evict*, where least is lost."""
        spec = known.snapshot
        able = [room for room in self.rooms.values() if spec.revision_id not in room.replicas]
        gone: list[str] = []
        roomy = [room for room in able if room.free_slots > 0 and room.free_bytes >= spec.nbytes]
        if roomy:
            chosen = max(roomy, key=lambda room: room.free_bytes)
        else:
            losses = [(room, self.victims(room, known, now_s)) for room in able if evict]
            options = [(lost[0], room.worker.worker_id, lost[1]) for room, lost in losses if lost]
            if not options:
                self._starved[known.name] = None
                return False
            _, chosen_id, gone = min(options)
            chosen = self.rooms[chosen_id]
        worker_id = chosen.worker.worker_id
        for revision_id in gone:
            self._drop(worker_id, revision_id)
        reason = Reason(known.name, rule, rule.value)
        self._attach.append(Attach(spec.name, spec.revision_id, worker_id, tuple(gone), reason))
        self.update_replica(
            worker_id,
            ReplicaSnapshot(
                spec.name, spec.revision_id, spec.nbytes, Phase.ATTACHING, now_s, 0, None
            ),
        )
        return True

    def order_detach(self, known: Known, worker_id: str) -> None:
        reason = Reason(known.name, Rule.IDLE, Rule.IDLE.value)
        revision_id = known.replicas[worker_id].revision_id
        self._detach.append(Detach(known.name, revision_id, worker_id, reason))
        self._drop(worker_id, revision_id)

    def _drop(self, worker_id: str, revision_id: str) -> None:
        replica = self.rooms[worker_id].replicas[revision_id]
        self.rooms[worker_id].take(revision_id)
        self.models[replica.model].replicas.pop(worker_id, None)


def idle(replicas: Iterable[tuple[str, ReplicaSnapshot]]) -> list[tuple[str, ReplicaSnapshot]]:
    """Those that are ready and serve nothing, longest idle first."""
    found = (pair for pair in replicas if pair[1].idle_since_s is not None)
    return sorted(found, key=lambda pair: pair[1].idle_since_s or 0.0)
