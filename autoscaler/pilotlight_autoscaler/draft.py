"""A decision while it is drawn up: the mirror, less what is to go, plus what is to come."""

from __future__ import annotations

from collections import Counter
from math import inf

from pilotlight_autoscaler.gaps import BINS, EDGES_S, bin_of
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.replica_view import ReplicaView, idle_since_s
from pilotlight_autoscaler.rules import Rules
from pilotlight_autoscaler.snapshot import ATTACHING, READY
from pilotlight_autoscaler.worker_view import IdleReplica, WorkerView


class Seat:
    """A worker's room in a draft."""

    __slots__ = ("free_bytes", "free_slots", "gone", "queue_s", "taken", "view")

    def __init__(self, view: WorkerView, now_s: float, models: dict[str, ModelView]) -> None:
        self.view = view
        self.free_bytes = view.free_bytes
        self.free_slots = view.free_slots
        self.gone: set[str] = set()  # revisions
        self.taken: set[str] = set()
        self.queue_s = view.snapshot.load_queue_s
        if view.attaching:
            self.queue_s = max(self.queue_s, _loading_s(view, now_s, models))

    def holds(self, revision_id: str) -> bool:
        if revision_id in self.taken:
            return True
        return revision_id in self.view.replicas and revision_id not in self.gone

    def fits(self, nbytes: int) -> bool:
        return self.free_bytes >= nbytes and self.free_slots >= 1


class Draft:
    """Seats of all workers, and how many replicas each model has gained and lost so far."""

    __slots__ = (
        "_all",
        "_seats",
        "added",
        "evictions",
        "filled",
        "mirror",
        "now_s",
        "removed",
        "rules",
        "words",
    )

    def __init__(self, mirror: Mirror, rules: Rules, now_s: float, *, words: bool = True) -> None:
        self.mirror = mirror
        self.rules = rules
        self.now_s = now_s
        self.words = words  # whether anybody reads why
        self.added: dict[str, int] = {}
        self.removed: dict[str, int] = {}
        self.evictions = 0
        self.filled = 0  # workers that held nothing and get something
        self._seats: dict[str, Seat] = {}
        self._all: list[Seat] | None = None

    def seats(self) -> list[Seat]:
        """In the order of the workers' ids."""
        if self._all is None:
            self._all = [self.seat(worker_id) for worker_id in self.mirror.order]
        return self._all

    def seat(self, worker_id: str) -> Seat:
        """A seat is drawn up when somebody looks at it: most decisions see one or two."""
        found = self._seats.get(worker_id)
        if found is None:
            view = self.mirror.workers[worker_id]
            found = self._seats[worker_id] = Seat(view, self.now_s, self.mirror.models)
        return found

    def leave(self, worker_id: str, replica: ReplicaView, owner: ModelView | None) -> None:
        """Take a replica that goes on its own account out of the draft."""
        self._remove(self.seat(worker_id), replica, owner)

    def live(self, model: ModelView) -> int:
        live = model.ready + model.attaching
        return live + self.added.get(model.name, 0) - self.removed.get(model.name, 0)

    def missing(self, model: ModelView) -> int:
        return model.want - self.live(model)

    def gone(self, worker_id: str, revision_id: str) -> bool:
        seat = self._seats.get(worker_id)
        return seat is not None and revision_id in seat.gone

    def ready(self, model: ModelView) -> int:
        return model.ready - self.removed.get(model.name, 0)

    def siblings(self, model: ModelView) -> Counter[str]:
        """Replicas of the model by node, those that are about to come too."""
        revision_id, workers = model.snapshot.revision_id, self.mirror.workers
        here = [workers[each] for each in model.live if not self.gone(each, revision_id)]
        here += [seat.view for seat in self._seats.values() if revision_id in seat.taken]
        return Counter(each.snapshot.node_id for each in here)

    def least_worth(self, seat: Seat) -> float:
        """No idle replica there has less."""
        self._idle_of(seat.view)
        return seat.view.least_worth

    def idle(self, seat: Seat) -> list[IdleReplica]:
        """Replicas that could be evicted there, the least valuable first."""
        idle = self._idle_of(seat.view)
        if not seat.gone:
            return idle
        return [each for each in idle if each.replica.revision_id not in seat.gone]

    def leaves(self, idle: IdleReplica) -> bool:
        """Whether it goes now although nobody needs its room."""
        owner = idle.owner
        if owner is None:
            return True
        return self.now_s >= idle.leaves_at_s and self.ready(owner) > owner.keep

    def evictable(self, idle: IdleReplica, *, impatient: bool) -> bool:
        """Whether a model with queued requests may take its room."""
        if self.leaves(idle):
            return True
        owner = idle.owner
        spare = owner is not None and self.ready(owner) > owner.occupied
        return spare and (impatient or self.now_s >= idle.resident_until_s)

    def load_s(self, seat: Seat, model: ModelView) -> float:
        """Seconds until weights ordered now would be there; 0 where nothing is known of nodes."""
        snapshot = model.snapshot
        return seat.queue_s + self.mirror.sources.load_s(
            seat.view.snapshot.node_id, snapshot.revision_id, snapshot.nbytes
        )

    def attach(self, seat: Seat, model: ModelView) -> None:
        self.added[model.name] = self.added.get(model.name, 0) + 1
        self.filled += not (seat.taken or seat.view.replicas)
        seat.free_bytes -= model.snapshot.nbytes
        seat.free_slots -= 1
        seat.taken.add(model.snapshot.revision_id)
        seat.queue_s += model.cold_start_s

    def remove(self, seat: Seat, idle: IdleReplica) -> None:
        self.evictions += 1
        self._remove(seat, idle.replica, idle.owner)

    def _remove(self, seat: Seat, replica: ReplicaView, owner: ModelView | None) -> None:
        if owner is not None:
            self.removed[owner.name] = self.removed.get(owner.name, 0) + 1
        seat.free_bytes += replica.nbytes
        seat.free_slots += 1
        seat.gone.add(replica.revision_id)

    def _idle_of(self, view: WorkerView) -> list[IdleReplica]:
        if view.idle is None or self.now_s >= view.idle_until_s:
            return self._draw_up(view)
        return view.idle

    def _draw_up(self, view: WorkerView) -> list[IdleReplica]:
        now_s = self.now_s
        view.idle_until_s = inf
        found = [
            self._idle(view, replica)
            for replica in view.replicas.values()
            if replica.phase is READY and replica.ongoing == 0
        ]
        found.sort(key=lambda each: (each.index, each.idle_since_s, each.replica.revision_id))
        for each in found:
            if each.owner is None:
                continue
            number = bin_of(max(0.0, now_s - each.idle_since_s))
            if number < BINS:
                edge_s = each.idle_since_s + EDGES_S[number + 1]
                # Never now again: the sum may round to below the edge.
                view.idle_until_s = min(view.idle_until_s, max(edge_s, now_s + 1e-6))
            if each.leaves_at_s > now_s:
                view.idle_until_s = min(view.idle_until_s, each.leaves_at_s)
        view.idle = found
        view.least_worth = min((each.worth for each in found), default=inf)
        return found

    def _idle(self, view: WorkerView, replica: ReplicaView) -> IdleReplica:
        owner = self.mirror.models.get(replica.model)
        if owner is None or owner.snapshot.revision_id != replica.revision_id:
            return IdleReplica(replica, None, -inf, -inf, -inf, -inf)
        since_s = min(idle_since_s(replica), self.now_s)
        leaves_at_s = owner.leaves_at.get(view.worker_id, inf)
        if self.now_s >= leaves_at_s:
            index = -inf
        else:
            index = self.rules.residency.index(owner, self.now_s - since_s)
        return IdleReplica(
            replica,
            owner,
            since_s,
            leaves_at_s,
            replica.since_s + owner.residency_s,
            index,
        )


def _loading_s(view: WorkerView, now_s: float, models: dict[str, ModelView]) -> float:
    """What is left of the loads that are under way."""
    left_s = 0.0
    for replica in view.replicas.values():
        model = models.get(replica.model)
        if replica.phase is ATTACHING and model is not None:
            left_s += max(0.0, replica.since_s + model.cold_start_s - now_s)
    return left_s
