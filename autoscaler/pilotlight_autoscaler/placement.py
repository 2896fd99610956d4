"""Where a missing replica goes, which idle ones leave for it, and why nowhere will do."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from pilotlight_autoscaler.plan import IdleReplica, ModelPlan, WorkerPlan
from pilotlight_autoscaler.snapshot import ModelSnapshot, Unplaced

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def choose_worker(
    workers: Iterable[WorkerPlan], model: ModelSnapshot, may_go: Callable[[IdleReplica], bool]
) -> tuple[WorkerPlan, list[IdleReplica]] | None:
    """The worker for one more replica of *model*, and what it evicts for it.

    A worker with room comes first, then the one that loses least; then the least busy, then the
    emptiest.
    """
    able = [worker for worker in workers if model.revision_id not in worker.revisions]
    roomy = [worker for worker in able if worker.fits(model.nbytes)]
    if roomy:
        return min(roomy, key=lambda worker: (worker.ongoing, -worker.free_bytes)), []

    options = [(worker, choose_victims(worker, model.nbytes, may_go)) for worker in able]
    evicting = [(worker, victims) for worker, victims in options if victims]
    return min(evicting, key=_loss, default=None)


def choose_victims(
    worker: WorkerPlan, nbytes: int, may_go: Callable[[IdleReplica], bool]
) -> list[IdleReplica]:
    """The idle replicas, cheapest first, that make room for *nbytes*; empty if they cannot."""
    lacking_bytes, lacking_slots = nbytes - worker.free_bytes, 1 - worker.free_slots
    victims: list[IdleReplica] = []
    for idle in worker.idle:
        if lacking_bytes <= 0 and lacking_slots <= 0:
            break
        if may_go(idle):
            victims.append(idle)
            lacking_bytes -= idle.replica.nbytes
            lacking_slots -= 1
    if lacking_bytes > 0 or lacking_slots > 0:
        return []

    for idle in reversed(victims[:-1]):  # a later, larger one may have made an earlier one needless
        if lacking_bytes + idle.replica.nbytes <= 0 and lacking_slots + 1 <= 0:
            victims.remove(idle)
            lacking_bytes += idle.replica.nbytes
            lacking_slots += 1
    return victims


def _loss(option: tuple[WorkerPlan, list[IdleReplica]]) -> tuple[float, ...]:
    worker, victims = option
    return (
        sum(idle.loss for idle in victims),
        max(idle.idle_since_s for idle in victims),
        sum(idle.replica.nbytes for idle in victims),
        worker.ongoing,
        -worker.free_bytes,
    )


class EvictionTimes:
    """When room can be made on each worker, once nothing more changes there."""

    def __init__(self, workers: Iterable[WorkerPlan]) -> None:
        self._workers = [(worker, *_ladder(worker)) for worker in workers]

    def earliest_s(self, plan: ModelPlan) -> float:
        """The earliest time at which the model's queue may evict enough; infinite if never."""
        earliest_s = math.inf
        for worker, times_s, freed_bytes in self._workers:
            if plan.model.revision_id in worker.revisions:
                continue
            lacking_bytes = plan.model.nbytes - worker.free_bytes
            last = max(bisect_left(freed_bytes, lacking_bytes), -worker.free_slots)
            if last < len(times_s):
                earliest_s = min(earliest_s, times_s[last], plan.impatient_at_s)
        return earliest_s


def _ladder(worker: WorkerPlan) -> tuple[list[float], list[int]]:
    """Times at which the residencies of its spare replicas end, and the bytes free by then."""
    spare = [idle for idle in worker.idle if idle.evictable(math.inf, impatient=True)]
    spare.sort(key=lambda idle: idle.resident_until_s)
    times_s = [idle.resident_until_s for idle in spare]
    return times_s, list(accumulate(idle.replica.nbytes for idle in spare))


def why_unplaced(workers: Iterable[WorkerPlan], plan: ModelPlan) -> Unplaced:
    """One sentence for the model's owner: larger than any worker, or only waiting for room."""
    reason, permanent = _obstacle(list(workers), plan.model)
    return Unplaced(
        plan.model.name, f"wants {plan.desired}, has {plan.live}: {reason}", permanent=permanent
    )


def _obstacle(workers: list[WorkerPlan], model: ModelSnapshot) -> tuple[str, bool]:
    usable = [worker for worker in workers if worker.worker.max_replicas > 0]
    if not usable:
        return "there is no worker", False
    largest = max(worker.worker.capacity_bytes for worker in usable)
    needs = f"needs {format_bytes(model.nbytes)}"
    if largest < model.nbytes:
        return f"{needs}, largest worker holds {format_bytes(largest)}", True

    able = [worker for worker in usable if worker.worker.capacity_bytes >= model.nbytes]
    without = [worker for worker in able if model.revision_id not in worker.revisions]
    if not without:
        return f"every worker large enough ({len(able)}) has it already", False
    room = max((worker.free_bytes for worker in without if worker.free_slots > 0), default=None)
    lacks = (
        "no replica slot is free"
        if room is None
        else f"{needs}, at most {format_bytes(max(0, room))} is free"
    )
    if model.queued > 0:
        return f"{_busy(without)}: {lacks} and no more can be freed yet", False
    return f"{lacks} and without queued requests it evicts nothing", False


def _busy(workers: list[WorkerPlan]) -> str:
    return "the worker is busy" if len(workers) == 1 else f"all {len(workers)} workers are busy"


def format_bytes(nbytes: int) -> str:
    """``13.5 GB``; decimal units, as links and disks are sold."""
    for size, unit in _UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"
