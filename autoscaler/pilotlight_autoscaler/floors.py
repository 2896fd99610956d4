"""Whether the replicas that all models keep although idle fit the pool together.

Only what can be proven not to fit is told: how a placement of replicas that fit in bytes comes out
depends on who was there first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.placement import format_bytes

# Schedules are looked at so far ahead, a floor that does not hold meanwhile by itself. One that
# begins more often in a day, more than every ten minutes, is taken as if it always held.
HORIZON_S = 7 * 86400.0
_YEAR_S = 366 * 86400.0
_MAX_STARTS = 144
_MAX_NAMED = 5

_Held = tuple[int, ...]  # replicas by model


@dataclass(frozen=True, slots=True)
class Keeper:
    """A model and what each of its replicas holds; 0 bytes: not known."""

    name: str
    config: AutoscalingConfig
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """A pool at its largest; 0 bytes or slots of a worker: not known. *limit* bounds the workers,
    for people.
    """

    workers: int
    worker_bytes: int = 0
    slots: int = 0
    limit: str = "max_workers"


@dataclass(frozen=True, slots=True)
class Shortage:
    """Floors need so many *workers* at least, from *at_s* on; None: at any time."""

    workers: int
    at_s: float | None
    text: str


def find_shortage(keepers: Sequence[Keeper], room: Room, now_s: float) -> Shortage | None:
    """The most that does not fit, by ``min_replicas`` at any time or by schedules.

    The message names the models, the room and what to do.
    """
    always = tuple(each.config.min_replicas for each in keepers)
    highest = tuple(highest_floor(each.config) for each in keepers)
    if least_workers(keepers, highest, room) <= room.workers:
        return None  # even if all of them were at once
    workers, at_s, held = _peak(keepers, room, now_s)
    if workers <= room.workers:
        return None
    if workers == least_workers(keepers, always, room):
        at_s, held = None, always  # no schedule makes it worse
    return Shortage(workers, at_s, _text(keepers, room, workers, at_s, held))


def least_workers(keepers: Sequence[Keeper], held: _Held, room: Room) -> int:
    """Workers without which so many replicas of each cannot be there at once."""
    needed = [max(held, default=0)]  # a worker holds one replica of a model
    if room.slots:
        needed.append(-(-sum(held) // room.slots))
    if room.worker_bytes:
        pairs = [(each.nbytes, count) for each, count in zip(keepers, held, strict=True)]
        nbytes = sum(nbytes * count for nbytes, count in pairs)
        # Of those that take more than half of a worker, no two share one.
        large = sum(count for nbytes, count in pairs if 2 * nbytes > room.worker_bytes)
        needed += [-(-nbytes // room.worker_bytes), large]
    return max(needed)


def highest_floor(config: AutoscalingConfig) -> int:
    """``min_replicas``, or the most of the schedule."""
    return max(config.min_replicas, *(floor.min_replicas for floor in config.schedule), 0)


def _peak(keepers: Sequence[Keeper], room: Room, now_s: float) -> tuple[int, float | None, _Held]:
    """The most that is needed, from when on, and what is held then."""
    least = [each.config.min_replicas for each in keepers]
    edges: list[tuple[float, bool, int, int]] = []  # at one time ends first: they are not held
    later: list[tuple[float, int, int]] = []
    for n, each in enumerate(keepers):
        for floor in each.config.schedule:
            spans = floor.spans(now_s, now_s + HORIZON_S, _MAX_STARTS)
            if spans is None:
                least[n] = max(least[n], floor.min_replicas)
                continue
            if not spans:
                year = floor.spans(now_s, now_s + _YEAR_S, _MAX_STARTS) or ()
                later += [(begin_s, n, floor.min_replicas) for begin_s, _ in year[:1]]
            for begin_s, end_s in spans:
                edges.append((begin_s, True, n, floor.min_replicas))
                edges.append((end_s, False, n, floor.min_replicas))
    edges.sort()
    held = list(least)
    holding: list[list[int]] = [[] for _ in keepers]
    peak: tuple[int, float | None, _Held]
    peak = least_workers(keepers, tuple(held), room), now_s, tuple(held)
    for at_s, group in groupby(edges, itemgetter(0)):
        more = False
        for _, begins, n, count in group:
            if begins:
                holding[n].append(count)
            else:
                holding[n].remove(count)
            before, held[n] = held[n], max(least[n], *holding[n], 0)
            more = more or held[n] > before
        if not more:
            continue
        workers = least_workers(keepers, tuple(held), room)
        if workers > peak[0]:
            peak = workers, at_s, tuple(held)
    for at_s, n, count in later:
        alone = (*least[:n], max(least[n], count), *least[n + 1 :])
        workers = least_workers(keepers, alone, room)
        if workers > peak[0]:
            peak = workers, at_s, alone
    return peak


def _text(
    keepers: Sequence[Keeper], room: Room, workers: int, at_s: float | None, held: _Held
) -> str:
    pairs = [(each, count) for each, count in zip(keepers, held, strict=True) if count]
    pairs.sort(key=lambda pair: (-pair[1] * max(1, pair[0].nbytes), pair[0].name))
    field = "min_replicas" if at_s is None else "the schedule's min_replicas"
    when = "" if at_s is None else f"from {datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC "
    most = f"{room.workers} worker{'s' if room.workers != 1 else ''} at most ({room.limit})"
    for keeper, count in pairs:
        if count > room.workers:
            return (
                f"{keeper.name}: {when}{field} keeps {count} replicas, and a worker holds one "
                f"replica of a model: the pool has {most}; lower {field} to {room.workers}, "
                f"or raise {room.limit} to {count}"
            )
    named = ", ".join(f"{each.name} {_replicas(each, count)}" for each, count in pairs[:_MAX_NAMED])
    if len(pairs) > _MAX_NAMED:
        named += f" and {len(pairs) - _MAX_NAMED} more models"
    bounds = [f"{room.slots} replicas"] if room.slots else []
    bounds += [format_bytes(room.worker_bytes)] if room.worker_bytes else []
    each_holds = f", each of which holds {' and '.join(bounds)}" if bounds else ""
    return (
        f"{when}{field} of all models together need {workers} workers, the pool has {most}"
        f"{each_holds}: {named}; lower min_replicas of some, or raise {room.limit} to {workers}"
    )


def _replicas(keeper: Keeper, count: int) -> str:
    return f"{count} x {format_bytes(keeper.nbytes)}" if keeper.nbytes else f"{count}"
