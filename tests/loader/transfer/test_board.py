"""Who reads what next: no threads, and time is a number."""

from __future__ import annotations

import pytest

from pilotlight_loader.transfer.board import Board
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import HedgePolicy


def board(parts: int, readers: int = 4, hedge: HedgePolicy | None = None) -> Board:
    found = Board([Part(n, 0, "f", n, n + 1, n) for n in range(parts)], readers, hedge)
    found.allow(parts)
    return found


POLICY = HedgePolicy(factor=3.0, samples=1, floor_s=1.0, blind_s=10.0)


def test_begin_gives_parts_in_order_and_none_behind_the_limit():
    found = Board([Part(n, 0, "f", n, n + 1, n) for n in range(3)], 1, None)
    found.allow(2)

    begun = [found.begin(0.0) for _ in range(3)]

    assert [attempt and attempt.part.index for attempt in begun] == [0, 1, None]


def test_begin_hedges_a_slow_part_before_it_begins_a_new_one():
    found = board(3, hedge=POLICY)
    slow = found.begin(0.0)
    quick = found.begin(0.0)
    found.finish(quick, 0.5)
    found.leave(quick)

    hedge = found.begin(1.6)  # 3 x the median of 0.5 s is 1.5 s

    assert hedge.is_hedge
    assert hedge.part is slow.part
    assert found.hedges == 1


def test_begin_takes_no_short_part_for_the_measure_of_whole_ones():
    parts = [Part(0, 0, "f", 0, 100, 0), Part(1, 0, "f", 100, 101, 100)]
    found = Board(parts, readers=2, hedge=POLICY)
    found.allow(2)
    found.begin(0.0)
    short = found.begin(0.0)
    found.finish(short, 1.0)
    found.leave(short)

    # 1 s for a fortieth of a part is 4 s for a whole one at most, so 12 s are slow.
    assert found.slow_in_s(1.0) == pytest.approx(11.0)


def test_begin_hedges_nothing_below_the_floor():
    found = board(2, hedge=POLICY)
    found.begin(0.0)
    quick = found.begin(0.0)
    found.finish(quick, 0.01)
    found.leave(quick)

    assert found.begin(0.9) is None
    assert found.slow_in_s(0.9) == pytest.approx(0.1)


def test_begin_hedges_without_a_comparison_only_after_blind_s():
    found = board(1, hedge=POLICY)
    found.begin(0.0)

    assert found.begin(9.9) is None
    assert found.begin(10.0).is_hedge


def test_begin_hedges_each_part_once():
    found = board(1, hedge=POLICY)
    found.begin(0.0)
    lost = found.begin(100.0)
    found.leave(lost)

    assert found.begin(200.0) is None


def test_begin_hedges_a_quarter_of_the_readers_at_once():
    found = board(4, readers=4, hedge=POLICY)
    for _ in range(4):
        found.begin(0.0)

    assert found.begin(100.0).is_hedge
    assert found.begin(100.0) is None


def test_finish_knows_who_was_first():
    found = board(1, hedge=POLICY)
    slow = found.begin(0.0)
    hedge = found.begin(100.0)

    assert found.finish(hedge, 101.0)
    assert not found.finish(slow, 102.0)
    assert found.all_done


def test_running_lists_who_has_not_left():
    found = board(1, hedge=POLICY)
    slow = found.begin(0.0)
    hedge = found.begin(100.0)

    found.leave(hedge)

    assert found.running(slow.part) == [slow]
    assert found.running() == [slow]
