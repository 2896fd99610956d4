"""The working copy of a snapshot on which a decision is drawn up. Internal to ``decide``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pilotlight_autoscaler.desired import desired_replicas, occupied_replicas
from pilotlight_autoscaler.snapshot import (
    ClusterSnapshot,
    ModelSnapshot,
    Phase,
    ReplicaSnapshot,
    WorkerSnapshot,
)

MIN_RESIDENCY_S = 1.0


@dataclass(slots=True, eq=False)
class ModelPlan:
    """A model and its replicas of the current revision. Draining ones serve no new request:
    neither they nor what still runs in them counts.
    """

    model: ModelSnapshot
    waiting_since_s: float  # of the oldest queued request
    impatient_at_s: float  # from here its queue has waited longer than a cold start
    ongoing: int = 0
    ready: int = 0
    attaching: int = 0
    desired: int = 0
    occupied: int = 0  # evictions leave at least these

    @property
    def live(self) -> int:
        return self.ready + self.attaching

    @property
    def missing(self) -> int:
        return self.desired - self.live


@dataclass(frozen=True, slots=True, eq=False)
class IdleReplica:
    """A ready replica that serves nothing."""

    replica: ReplicaSnapshot
    owner: ModelPlan | None  # None: its revision is obsolete
    idle_since_s: float
    timeout_at_s: float  # idle_timeout_s is over
    resident_until_s: float  # only an impatient newcomer evicts it before
    loss: float  # expected waiting per second that it is gone

    def leaves(self, now_s: float) -> bool:
        """Whether it goes now although nobody needs its room."""
        if self.owner is None:
            return True
        return now_s >= self.timeout_at_s and self.owner.ready > self.owner.desired

    def evictable(self, now_s: float, *, impatient: bool) -> bool:
        """Whether a model with queued requests may take its room."""
        if self.leaves(now_s):
            return True
        spare = self.owner is not None and self.owner.ready > self.owner.occupied
        return spare and (impatient or now_s >= self.resident_until_s)


@dataclass(slots=True, eq=False)
class WorkerPlan:
    """A worker's room; ``idle`` stands in the order of eviction."""

    worker: WorkerSnapshot
    free_bytes: int
    free_slots: int
    ongoing: int = 0
    revisions: set[str] = field(default_factory=set)
    idle: list[IdleReplica] = field(default_factory=list)

    def fits(self, nbytes: int) -> bool:
        return self.free_bytes >= nbytes and self.free_slots >= 1

    def attach(self, plan: ModelPlan) -> None:
        plan.attaching += 1
        self.free_bytes -= plan.model.nbytes
        self.free_slots -= 1
        self.revisions.add(plan.model.revision_id)

    def detach(self, idle: IdleReplica) -> None:
        if idle.owner is not None:
            idle.owner.ready -= 1
        self.free_bytes += idle.replica.nbytes
        self.free_slots += 1
        self.revisions.discard(idle.replica.revision_id)
        self.idle.remove(idle)


@dataclass(frozen=True, slots=True, eq=False)
class ClusterPlan:
    """Models in the snapshot's order, workers in the order of their ids."""

    models: tuple[ModelPlan, ...]
    workers: tuple[WorkerPlan, ...]


def draw_up(snapshot: ClusterSnapshot, now_s: float) -> ClusterPlan:
    """Count replicas, demand and room; nothing is decided yet."""
    models = {model.name: _model_plan(model, now_s) for model in snapshot.models}
    workers = sorted(snapshot.workers, key=lambda worker: worker.worker_id)
    plan = ClusterPlan(
        tuple(models.values()), tuple(_worker_plan(worker, models, now_s) for worker in workers)
    )
    for each in plan.models:
        config, queued = each.model.config, each.model.queued
        each.desired = desired_replicas(config, queued, each.ongoing)
        each.occupied = occupied_replicas(config, queued, each.ongoing)
    return plan


def _model_plan(model: ModelSnapshot, now_s: float) -> ModelPlan:
    oldest_s = now_s if model.oldest_queued_since_s is None else model.oldest_queued_since_s
    return ModelPlan(
        model,
        waiting_since_s=_past_s(oldest_s, now_s),
        impatient_at_s=_end_s(oldest_s, model.cold_start_s),
    )


def _worker_plan(worker: WorkerSnapshot, models: dict[str, ModelPlan], now_s: float) -> WorkerPlan:
    plan = WorkerPlan(worker, worker.capacity_bytes, worker.max_replicas)
    for replica in worker.replicas:
        plan.free_bytes -= replica.nbytes
        plan.free_slots -= 1
        plan.ongoing += replica.ongoing
        plan.revisions.add(replica.revision_id)
        owner = models.get(replica.model)
        if owner is not None and owner.model.revision_id != replica.revision_id:
            owner = None
        if owner is not None and replica.phase is not Phase.DRAINING:
            owner.ongoing += replica.ongoing
            owner.ready += replica.phase is Phase.READY
            owner.attaching += replica.phase is Phase.ATTACHING
        if replica.phase is Phase.READY and replica.ongoing == 0:
            plan.idle.append(_idle_replica(replica, owner, now_s))
    plan.idle.sort(key=lambda idle: (idle.loss, idle.idle_since_s, idle.replica.revision_id))
    return plan


def _idle_replica(replica: ReplicaSnapshot, owner: ModelPlan | None, now_s: float) -> IdleReplica:
    if owner is None:  # first to go, before any replica that costs nothing to lose
        return IdleReplica(replica, None, -math.inf, -math.inf, -math.inf, loss=0.0)
    since_s = replica.since_s if replica.idle_since_s is None else replica.idle_since_s
    model = owner.model
    timeout_at_s = _end_s(since_s, model.config.idle_timeout_s)
    loss = model.cold_start_s * model.requests_per_s
    return IdleReplica(
        replica,
        owner,
        idle_since_s=_past_s(since_s, now_s),
        timeout_at_s=timeout_at_s,
        resident_until_s=_end_s(since_s, max(MIN_RESIDENCY_S, model.cold_start_s)),
        loss=loss if loss > 0 and now_s < timeout_at_s else 0.0,
    )


def _past_s(time_s: float, now_s: float) -> float:
    """Nothing began after now: the clock went back, or the time is NaN."""
    return time_s if time_s <= now_s else now_s


def _end_s(since_s: float, hold_s: float) -> float:
    """When a hold is over; never, if a time is NaN.

    Now is compared with this sum, not an age with the hold: so it is over at its own wake-up.
    """
    if not hold_s <= 0:
        end_s = since_s + hold_s
        return math.inf if math.isnan(end_s) else end_s
    return -math.inf
