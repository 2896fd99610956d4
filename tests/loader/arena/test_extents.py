from __future__ import annotations

import dataclasses
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilotlight_loader.arena.extents import (
    EXTENT_ALIGN,
    Extent,
    Occupant,
    largest_run_bytes,
    place,
)

CAPACITY = 16  # extents


def occupant(key: str, start: int, extents: int = 1, used: int = 0, evictable: bool = True):
    extent = Extent(start * EXTENT_ALIGN, extents * EXTENT_ALIGN)
    return Occupant(key, extent, evictable, used)


def placed(occupants, extents, capacity=CAPACITY):
    """(start in extents, evicted keys) or None."""
    placement = place(occupants, capacity * EXTENT_ALIGN, extents * EXTENT_ALIGN)
    if placement is None:
        return None
    return placement.extent.start // EXTENT_ALIGN, set(placement.evict)


def test_place_begins_at_the_beginning():
    assert placed([], 1) == (0, set())


def test_place_rounds_up_to_whole_extents():
    placement = place([], CAPACITY * EXTENT_ALIGN, EXTENT_ALIGN + 1)

    assert placement is not None
    assert placement.extent == Extent(0, 2 * EXTENT_ALIGN)


def test_place_takes_the_tightest_hole():
    occupants = [occupant("a", 4), occupant("b", 7)]  # holes of 4, 2 and 8

    assert placed(occupants, 2) == (5, set())


def test_place_prefers_a_hole_to_an_eviction():
    assert placed([occupant("old", 0, 15)], 1) == (15, set())


def test_place_evicts_the_least_recently_used():
    occupants = [occupant(str(used), at, used=used) for at, used in enumerate([3, 1, 2])]

    assert placed(occupants, 1, capacity=3) == (1, {"1"})


def test_place_uses_the_holes_beside_what_it_evicts():
    occupants = [occupant("a", 1), occupant("b", 4, used=1)]  # holes of 1, 2 and 1

    assert placed(occupants, 4, capacity=6) == (0, {"a"})


def test_place_evicts_old_neighbours_to_join_small_holes():
    # Three extents are free, no two of them side by side.
    occupants = [occupant("a", 1, used=5), occupant("b", 3, used=1), occupant("c", 5, used=6)]

    assert placed(occupants, 3, capacity=6) == (2, {"b"})


def test_place_leaves_what_is_leased():
    occupants = [occupant("leased", 0, used=0, evictable=False), occupant("free", 1, used=9)]

    assert placed(occupants, 1, capacity=2) == (1, {"free"})


def test_place_fails_where_leases_cut_the_room():
    occupants = [occupant("leased", 2, evictable=False)]  # 2 free on each side

    assert placed(occupants, 3, capacity=5) is None
    assert largest_run_bytes(occupants, 5 * EXTENT_ALIGN) == 2 * EXTENT_ALIGN


def test_place_fails_beyond_the_capacity():
    assert placed([], CAPACITY + 1) is None


def test_place_leaves_a_torn_end_of_the_arena_alone():
    assert place([], 2 * EXTENT_ALIGN - 1, EXTENT_ALIGN + 1) is None


@given(st.permutations(range(6)))
def test_place_of_equal_sizes_is_plain_lru(used):
    occupants = [occupant(str(u), at, used=u) for at, u in enumerate(used)]
    order = []
    for _ in used:
        placement = place(occupants, 6 * EXTENT_ALIGN, EXTENT_ALIGN)
        assert placement is not None
        order += placement.evict
        new = Occupant("new", placement.extent, True, 99)
        occupants = [new, *(o for o in occupants if o.key not in placement.evict)]

    assert order == ["0", "1", "2", "3", "4", "5"]


class Allocator(RuleBasedStateMachine):
    """Reserve, lease, release and free in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.occupants: dict[str, Occupant] = {}
        self.clock = 0

    @rule(nbytes=st.integers(1, (CAPACITY + 2) * EXTENT_ALIGN), evictable=st.booleans())
    def reserve(self, nbytes: int, evictable: bool) -> None:
        self.clock += 1
        before = list(self.occupants.values())
        placement = place(before, CAPACITY * EXTENT_ALIGN, nbytes)
        if placement is None:
            assert largest_run_bytes(before, CAPACITY * EXTENT_ALIGN) < nbytes
            return
        assert placement.extent.nbytes - EXTENT_ALIGN < nbytes <= placement.extent.nbytes
        for key in placement.evict:
            assert self.occupants.pop(key).evictable
        if placement.evict:
            kept = place(
                [dataclasses.replace(o, evictable=False) for o in before],
                CAPACITY * EXTENT_ALIGN,
                nbytes,
            )
            assert kept is None, "evicted although a hole was large enough"
        key = str(self.clock)
        self.occupants[key] = Occupant(key, placement.extent, evictable, self.clock)

    @precondition(lambda self: self.occupants)
    @rule(data=st.data())
    def free_and_reserve_again(self, data: st.DataObject) -> None:
        gone = self.occupants.pop(data.draw(st.sampled_from(sorted(self.occupants))))
        stays = [dataclasses.replace(o, evictable=False) for o in self.occupants.values()]

        assert place(stays, CAPACITY * EXTENT_ALIGN, gone.extent.nbytes) is not None

    @precondition(lambda self: self.occupants)
    @rule(data=st.data())
    def lease_or_release(self, data: st.DataObject) -> None:
        self.clock += 1
        key = data.draw(st.sampled_from(sorted(self.occupants)))
        found = self.occupants[key]
        self.occupants[key] = dataclasses.replace(
            found, evictable=not found.evictable, last_used=self.clock
        )

    @invariant()
    def extents_are_aligned_inside_and_apart(self) -> None:
        extents = sorted((o.extent for o in self.occupants.values()), key=lambda e: e.start)

        assert all(e.start % EXTENT_ALIGN == e.nbytes % EXTENT_ALIGN == 0 for e in extents)
        assert all(e.start >= 0 and e.end <= CAPACITY * EXTENT_ALIGN for e in extents)
        assert all(one.end <= two.start for one, two in pairwise(extents))


TestAllocator = Allocator.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
