"""Where a missing replica goes, which idle ones leave for it, and why nowhere will do."""

from __future__ import annotations

from collections.abc import Callable

from pilotlight_autoscaler.decision import Unplaced
from pilotlight_autoscaler.draft import Draft, Seat
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.worker_view import IdleReplica

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

_Near = tuple[bool, int]  # with spread: whether it evicts, replicas of the model on its node
_Cost = tuple[_Near, float, int, float, float, int, int, int, str]


def choose_seat(
    draft: Draft, model: ModelView, may_go: Callable[[IdleReplica], bool]
) -> tuple[Seat, list[IdleReplica]] | None:
    """The worker for one more replica of *model* where ``vacant_seat`` has none; what it evicts.

    With ``placement.spread``, one that evicts nothing, of a node that has the fewest replicas of
    it; in any case the one with the least seconds in all: its loads under way, the bytes at its
    node's speed, and the waiting that its victims will cost. Then one that evicts nothing, then the
    least loss, the least busy, the emptiest.
    """
    snapshot = model.snapshot
    siblings = draft.siblings(model) if snapshot.config.placement.spread else None
    best: tuple[_Cost, Seat, list[IdleReplica]] | None = None
    for seat in draft.seats():
        if seat.holds(snapshot.revision_id):
            continue
        fits = seat.fits(snapshot.nbytes)
        near = (False, 0)
        if siblings is not None:
            near = (not fits, siblings[seat.view.snapshot.node_id])
        load_s = draft.load_s(seat, model)
        if best is not None and (near, load_s) > best[0][:2]:
            continue  # its victims would only add to that
        victims: list[IdleReplica] = []
        if not fits:
            if seat.view.capacity_bytes < snapshot.nbytes or seat.view.snapshot.max_replicas < 1:
                continue
            if best is not None:
                least_s = load_s + draft.least_worth(seat) * model.cold_start_s
                if (near, least_s) > best[0][:2]:
                    continue  # whoever left there would be dearer
            victims = choose_victims(draft, seat, snapshot.nbytes, may_go)
            if not victims:
                continue
        cost = _cost(seat, near, load_s, victims, model.cold_start_s)
        if best is None or cost < best[0]:
            best = (cost, seat, victims)
    return None if best is None else (best[1], best[2])


def vacant_seat(draft: Draft, model: ModelView) -> Seat | None:
    """The first empty worker of the largest size that no other can beat: no search is needed."""
    snapshot, mirror = model.snapshot, draft.mirror
    if snapshot.config.placement.spread and draft.siblings(model):
        return None  # which node it is on counts more
    least_s = mirror.sources.least_s(snapshot.revision_id, snapshot.nbytes)
    for worker_id in mirror.vacancies:
        view = mirror.workers[worker_id]
        if view.capacity_bytes < mirror.sizes.largest_bytes:
            return None
        seat = draft.seat(worker_id)
        if not seat.taken and seat.fits(snapshot.nbytes) and draft.load_s(seat, model) <= least_s:
            return seat
    return None


def _cost(
    seat: Seat, near: _Near, load_s: float, victims: list[IdleReplica], cold_start_s: float
) -> _Cost:
    order = (seat.view.ongoing, -seat.free_bytes, seat.view.worker_id)
    if not victims:
        return (near, load_s, 0, 0.0, 0.0, 0, *order)
    # A newcomer stays about its break-even, L (1 + w k): what it displaces would have saved worth
    # times that, in worker-seconds; w k of those are one second of the newcomer's queue.
    worth = sum(idle.worth for idle in victims)
    return (
        near,
        load_s + worth * cold_start_s,
        1,
        worth,
        max(idle.idle_since_s for idle in victims),
        sum(idle.replica.nbytes for idle in victims),
        *order,
    )


def choose_victims(
    draft: Draft, seat: Seat, nbytes: int, may_go: Callable[[IdleReplica], bool]
) -> list[IdleReplica]:
    """The idle replicas, cheapest first, that make room for *nbytes*; empty if they cannot."""
    lacking_bytes, lacking_slots = nbytes - seat.free_bytes, 1 - seat.free_slots
    victims: list[IdleReplica] = []
    for idle in draft.idle(seat):
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


def why_unplaced(draft: Draft, model: ModelView) -> Unplaced:
    """One sentence for the model's owner: larger than any worker, or only waiting for room."""
    reason, permanent = _obstacle(draft.seats(), model)
    wants = f"wants {model.want}, has {draft.live(model)}"
    return Unplaced(model.name, f"{wants}: {reason}", permanent=permanent)


def _obstacle(seats: list[Seat], model: ModelView) -> tuple[str, bool]:
    snapshot = model.snapshot
    usable = [seat for seat in seats if seat.view.snapshot.max_replicas > 0]
    if not usable:
        return "there is no worker", False
    largest = max(seat.view.capacity_bytes for seat in usable)
    needs = f"needs {format_bytes(snapshot.nbytes)}"
    if largest < snapshot.nbytes:
        return f"{needs}, largest worker holds {format_bytes(largest)}", True

    able = [seat for seat in usable if seat.view.capacity_bytes >= snapshot.nbytes]
    without = [seat for seat in able if not seat.holds(snapshot.revision_id)]
    if not without:
        return f"every worker large enough ({len(able)}) has it already", False
    room = max((seat.free_bytes for seat in without if seat.free_slots > 0), default=None)
    lacks = (
        "no replica slot is free"
        if room is None
        else f"{needs}, at most {format_bytes(max(0, room))} is free"
    )
    if model.queued > 0:
        return f"{_busy(len(without))}: {lacks} and no more can be freed yet", False
    return f"{lacks} and without queued requests it evicts nothing", False


def _busy(workers: int) -> str:
    return "the worker is busy" if workers == 1 else f"all {workers} workers are busy"


def format_bytes(nbytes: int) -> str:
    """``13.5 GB``; decimal units, as links and disks are sold."""
    for size, unit in _UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"
