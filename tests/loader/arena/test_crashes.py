"""Whoever dies, at whatever line, leaves no extent taken and no half entry."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.errors import ArenaError, ArenaFullError

MAX_LINES = 2000


def deaths(process, act: str, path: Path, step: int):
    """Kill *act* before every *step*-th line of the arena's code; gives control after each."""
    for number in range(1, MAX_LINES, step):
        if not process.ask("dies_at_line", number, act, path):
            assert number > step, "it died nowhere"
            return
        yield number
    pytest.fail(f"{act} has more than {MAX_LINES} lines")


def test_killed_filler_frees_its_extent(arena, other):
    process = other()
    process.ask("reserve", "k", arena.nbytes)
    process.ask("write", "k", 9)
    with pytest.raises(ArenaFullError):
        arena.reserve("new", 1)

    process.kill()

    assert arena.lease("k") is None
    assert arena.reserve("new", arena.nbytes) is not None


def test_killed_filler_is_replaced_by_who_waits(arena, other):
    leader, follower = other(), other()
    leader.ask("reserve", "k", 1)
    follower.begin("wait", "k", 30.0)
    assert not follower.answered(0.1)

    leader.kill()

    assert follower.answer() is False
    assert follower.ask("reserve", "k", 1)


def test_frozen_filler_is_not_replaced_and_goes_on(arena, other):
    leader = other()
    leader.ask("reserve", "k", 3)
    leader.freeze()
    with pytest.raises(ArenaError, match="has been filling for more than"):
        arena.wait("k", 0.1)
    assert arena.reserve("k", 3) is None  # two never write to one extent
    leader.thaw()
    leader.ask("write", "k", 9)
    leader.ask("commit", "k")

    with arena.lease("k") as lease:
        assert bytes(lease.memory) == bytes([9] * 3)


def test_killed_leaser_gives_its_lease_back(arena, put, other):
    put("k", extents=8)
    process = other()
    process.ask("lease", "k")
    with pytest.raises(ArenaFullError):
        arena.reserve("new", 1)

    process.kill()

    assert arena.reserve("new", 1) is not None


def test_killed_leaser_leaves_the_entry(arena, put, other):
    put("k", value=4)
    process = other()
    process.ask("lease", "k")
    process.kill()

    assert arena.lease("k").memory[0] == 4


def test_killed_leaser_has_used_the_entry(arena, put, other):
    for key in "abcdefgh":
        put(key)
    process = other()
    process.ask("lease", "a")
    process.kill()

    put("new", extents=7)

    assert {record.key for record in arena.entries()} == {"a", "new"}


def test_process_killed_at_any_line_leaves_a_sound_arena(other, shm):
    path = shm / "small"
    with Arena.create(path, 2 * EXTENT_ALIGN) as arena:
        for number in deaths(other(), "fill", path, 5):
            for record in arena.entries():
                assert (record.state, record.held) == ("ready", False), number
                with arena.lease(record.key) as lease:
                    smallest, largest = lease.tensor().aminmax()
                assert smallest == largest == {"one": 1, "two": 2}[record.key], number
            with arena.reserve("all", arena.nbytes):  # every extent can be had
                assert len(arena.entries()) == 1, number
            assert arena.entries() == (), number


def test_maker_killed_at_any_line_can_be_followed(other, shm):
    path = shm / "made"
    for number in deaths(other(), "make", path, 5):
        with suppress(ArenaError):  # it had come so far that it was there
            Arena.create(path, EXTENT_ALIGN).close()
        with Arena.open(path) as arena:
            arena.touch()
            assert arena.reserve("k", arena.nbytes) is not None, number
        Arena.destroy(path)


def test_destroyer_killed_at_any_line_can_be_followed(other, shm):
    path = shm / "doomed"
    Arena.create(path, EXTENT_ALIGN).close()
    for number in deaths(other(), "destroy", path, 2):
        Arena.destroy(path)
        assert not path.exists(), number
        Arena.create(path, EXTENT_ALIGN).close()
