"""Choose where an extent goes, and what must be evicted for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pilotlight_loader.layout import round_up

# A huge page: an extent that begins and ends on one can be mapped by whole huge pages, and is
# never evicted together with half of a neighbour's. It costs 1 MiB a checkpoint on average.
EXTENT_ALIGN = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the arena; both ends are on EXTENT_ALIGN."""

    start: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.start + self.nbytes


@dataclass(frozen=True, slots=True)
class Occupant:
    """What stands in an extent."""

    key: str
    extent: Extent
    evictable: bool
    last_used: int  # only compared: larger is newer


@dataclass(frozen=True, slots=True)
class Placement:
    """Where something goes after the occupants named in `evict` have gone."""

    extent: Extent
    evict: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Window:
    """A run of holes and evictable occupants, between two that stay (or the arena's ends)."""

    start: int
    end: int
    evicted: tuple[Occupant, ...]

    @property
    def cost(self) -> tuple[int, int, int, int]:
        """Least recently used first; then few bytes evicted, a tight fit, a low address."""
        newest = max((occupant.last_used for occupant in self.evicted), default=-1)
        evicted = sum(occupant.extent.nbytes for occupant in self.evicted)
        return (newest, evicted, self.end - self.start, self.start)


def place(occupants: Sequence[Occupant], capacity_bytes: int, nbytes: int) -> Placement | None:
    """The cheapest place for *nbytes*, or None: too much, or too much of it may not be evicted.

    A hole that fits is taken first, the tightest. Else neighbours are evicted, and of all runs
    of them that would do, the one whose newest member has been unused for longest: of equal
    sizes that is plain LRU, and no number of small holes between old checkpoints is in its way.
    """
    wanted = round_up(nbytes, EXTENT_ALIGN)
    windows = list(_windows(_in_place_order(occupants), capacity_bytes, wanted))
    if not windows:
        return None
    best = min(windows, key=lambda window: window.cost)
    return Placement(Extent(best.start, wanted), tuple(o.key for o in best.evicted))


def largest_run_bytes(occupants: Sequence[Occupant], capacity_bytes: int) -> int:
    """The largest extent there could be if everything evictable went."""
    staying = [occupant for occupant in _in_place_order(occupants) if not occupant.evictable]
    starts = [0, *(occupant.extent.end for occupant in staying)]
    ends = [*(occupant.extent.start for occupant in staying), _whole_extents(capacity_bytes)]
    return max(end - start for start, end in zip(starts, ends, strict=True))


def _windows(occupants: Sequence[Occupant], capacity_bytes: int, wanted: int) -> Iterator[_Window]:
    """From behind each occupant (and from 0) the shortest window to the right that is enough."""
    ends = [*(occupant.extent.start for occupant in occupants), _whole_extents(capacity_bytes)]
    starts = [0, *(occupant.extent.end for occupant in occupants)]
    for first, start in enumerate(starts):
        for last in range(first, len(ends)):
            if last > first and not occupants[last - 1].evictable:
                break
            if ends[last] - start >= wanted:
                yield _Window(start, ends[last], tuple(occupants[first:last]))
                break


def _in_place_order(occupants: Sequence[Occupant]) -> list[Occupant]:
    return sorted(occupants, key=lambda occupant: occupant.extent.start)


def _whole_extents(capacity_bytes: int) -> int:
    return capacity_bytes // EXTENT_ALIGN * EXTENT_ALIGN
