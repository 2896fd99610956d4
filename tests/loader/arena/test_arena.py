from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.waiting import until

from pilotlight_loader.arena import ledger
from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.errors import ArenaError, ArenaFullError, LoadCancelledError


def keys(arena: Arena) -> set[str]:
    return {record.key for record in arena.entries()}


def touched_kib(path) -> int:
    return os.stat(path / "memory").st_blocks // 2


def test_arena_has_its_memory_when_it_is_made(arena):
    assert touched_kib(arena.path) * 1024 == arena.nbytes


def test_arena_tells_how_far_it_is_touched(shm):
    told = []
    with Arena.create(shm / "a", 3, progress=lambda *step: told.append(step)) as made:
        assert told == [(EXTENT_ALIGN, EXTENT_ALIGN)]
        assert made.nbytes == EXTENT_ALIGN


def test_arena_is_for_its_owner_alone(arena):
    modes = [stat.S_IMODE(path.stat().st_mode) for path in arena.path.iterdir()]

    assert stat.S_IMODE(arena.path.stat().st_mode) == 0o700
    assert set(modes) == {0o600}


def test_arena_is_made_once(arena):
    with pytest.raises(ArenaError, match="there is an arena already"):
        Arena.create(arena.path, EXTENT_ALIGN)


def test_arena_replaces_what_a_killed_maker_left(shm):
    (shm / "a").mkdir(mode=0o700)
    (shm / "a" / "memory").write_bytes(b"half")

    with Arena.create(shm / "a", EXTENT_ALIGN) as made:
        assert made.entries() == ()


def test_arena_that_is_interrupted_leaves_nothing(shm):
    def interrupt(touched: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Arena.create(shm / "a", EXTENT_ALIGN, progress=interrupt)

    assert list(shm.iterdir()) == []


def test_arena_on_an_unknown_node_leaves_nothing(shm):
    with pytest.raises(ArenaError, match="no NUMA node 4096"):
        Arena.create(shm / "a", EXTENT_ALIGN, numa_node=4096)

    assert list(shm.iterdir()) == []


def test_open_without_an_arena_says_so(shm):
    with pytest.raises(ArenaError, match="there is no arena"):
        Arena.open(shm / "nowhere")


def test_open_refuses_what_others_may_write(arena):
    arena.path.chmod(0o777)

    with pytest.raises(ArenaError, match="others may write"):
        Arena.open(arena.path)


def test_open_refuses_memory_that_was_cut(arena):
    os.truncate(arena.path / "memory", EXTENT_ALIGN)

    with pytest.raises(ArenaError, match="it was made with"):
        Arena.open(arena.path)


def test_open_refuses_another_version(arena):
    with arena._ledger.locked():
        arena._ledger.write_state(ledger.ArenaState(arena.nbytes, arena.nbytes, version=0))

    with pytest.raises(ArenaError, match="version 0"):
        Arena.open(arena.path)


def test_commit_publishes_what_was_written(arena, other):
    filling = arena.reserve("k", 5)
    assert filling is not None
    filling.memory[:] = b"bytes"
    assert arena.lease("k") is None
    filling.commit()

    assert other().ask("lease", "k") == b"bytes"


def test_lease_memory_is_read_only(arena, put):
    put("k")
    lease = arena.lease("k")

    assert lease.memory.readonly


def test_reserve_is_refused_where_the_key_is_here(arena, put):
    put("k")

    assert arena.reserve("k", 1) is None


def test_reserve_is_refused_while_somebody_fills(arena, other):
    assert other().ask("reserve", "k", 1)

    assert arena.reserve("k", 1) is None


def test_reserve_in_two_threads_is_refused_to_one(arena):
    with arena.reserve("k", 1):
        assert arena.reserve("k", 1) is None


def test_abandoned_key_is_free_at_once(arena):
    with arena.reserve("k", 1) as filling:
        memory = filling.memory  # still there, as in a traceback

    assert arena.reserve("k", 1) is not None
    assert len(memory) == 1


def test_abandoned_memory_is_not_given_out_while_it_can_be_written(arena):
    filling = arena.reserve("k", arena.nbytes)
    memory = filling.memory
    filling.abandon()
    with pytest.raises(ArenaFullError):
        arena.reserve("k", 1)

    del memory

    assert arena.reserve("k", arena.nbytes) is not None


def test_commit_after_abandon_is_refused(arena):
    filling = arena.reserve("k", 1)
    filling.abandon()

    with pytest.raises(ValueError, match="has ended"):
        filling.commit()


def test_reserve_evicts_the_least_recently_used(arena, put):
    for key in "abcdefgh":
        put(key)
    arena.lease("a").close()

    put("new")

    assert keys(arena) == set("acdefgh") | {"new"}


def test_end_of_a_lease_counts_as_use(arena, put):
    for key in "abcdefgh":
        put(key)
    with arena.lease("a"):
        arena.lease("b").close()

    put("new", extents=7)  # the seven oldest are b to h

    assert keys(arena) == {"a", "new"}


def test_reserve_never_evicts_what_another_process_leases(arena, put, other):
    put("a", value=7)
    put("b", extents=7)
    process = other()
    process.ask("lease", "a")

    with pytest.raises(ArenaFullError):
        arena.reserve("new", arena.nbytes)
    put("new", extents=7)

    assert keys(arena) == {"a", "new"}


def test_reserve_of_fragments_evicts_what_lies_between(arena, put):
    for key in "abcdefgh":
        put(key)
    for key in "bdf":
        arena.remove(key)  # three free extents, no two side by side

    put("new", extents=3)

    assert keys(arena) == set("aegh") | {"new"}


def test_full_arena_says_what_is_in_the_way(arena, put):
    put("a", extents=2)
    put("b", extents=1)
    with arena.lease("a"), pytest.raises(ArenaFullError) as raised:
        arena.reserve("new", 7 * EXTENT_ALIGN)

    mib = EXTENT_ALIGN
    assert str(raised.value) == (
        f"'new' needs {7 * mib} bytes; of the arena's {8 * mib} are {5 * mib} free, {2 * mib} "
        f"leased or being filled, 0 not touched yet, and at most {6 * mib} can be had in one run"
    )


def test_remove_forgets_the_key_at_once_and_the_memory_with_the_lease(arena, put):
    put("k", extents=8, value=3)
    lease = arena.lease("k")

    assert arena.remove("k")
    assert arena.lease("k") is None
    with pytest.raises(ArenaFullError):
        arena.reserve("new", 1)
    assert lease.memory[0] == 3
    lease.close()
    assert arena.reserve("new", arena.nbytes) is not None


def test_remove_leaves_what_is_being_filled(arena):
    filling = arena.reserve("k", 1)

    assert not arena.remove("k")
    filling.commit()
    assert arena.remove("k")


def test_lease_outlives_close_in_what_was_made_of_it(arena, put):
    put("k")
    lease = arena.lease("k")
    view = lease.tensor()[:10]
    lease.close()
    assert arena.entries()[0].held

    del view

    assert not arena.entries()[0].held


def test_lease_refuses_use_after_close(arena, put):
    put("k")
    lease = arena.lease("k")
    lease.close()
    lease.close()

    with pytest.raises(ValueError, match="has ended"):
        _ = lease.memory


def test_wait_returns_when_the_other_commits(arena, other):
    filling = arena.reserve("k", 1)
    process = other()
    process.begin("wait", "k", 30.0)
    assert not process.answered(0.1)

    filling.commit()

    assert process.answer() is True


def test_wait_returns_nothing_when_the_other_gives_up(arena, other):
    filling = arena.reserve("k", 1)
    process = other()
    process.begin("wait", "k", 30.0)
    filling.abandon()

    assert process.answer() is False


def test_wait_for_nobody_returns_at_once(arena):
    assert arena.wait("k", 30.0) is None


def test_wait_is_bounded(arena):
    with arena.reserve("k", 1), pytest.raises(ArenaError, match=r"for more than 0\.05 s"):
        arena.wait("k", 0.05)


def test_wait_is_cancelled(arena):
    cancel = threading.Event()
    cancel.set()

    with arena.reserve("k", 1), pytest.raises(LoadCancelledError):
        arena.wait("k", 30.0, cancel)


def test_lock_that_is_not_given_back_is_an_error(arena, other, monkeypatch):
    monkeypatch.setattr(ledger, "LOCK_TIMEOUT_S", 0.05)
    process = other()
    process.ask("hold_lock")

    with pytest.raises(ArenaError, match="is a process stopped"):
        arena.lease("k")
    process.kill()
    assert arena.lease("k") is None


@pytest.mark.parametrize(
    "use",
    [
        lambda arena: arena.lease("k"),
        lambda arena: arena.reserve("k", 1),
        lambda arena: arena.wait("k", 1.0),
        lambda arena: arena.entries(),
        lambda arena: arena.remove("k"),
        lambda arena: arena.map_pages(),
    ],
)
def test_destroyed_arena_says_so(arena, use):
    Arena.destroy(arena.path)

    with pytest.raises(ArenaError, match="it has been destroyed"):
        use(arena)


def test_destroyed_arena_takes_no_commit(arena):
    filling = arena.reserve("k", 1)
    Arena.destroy(arena.path)

    with pytest.raises(ArenaError, match="it has been destroyed"):
        filling.commit()


def test_destroyed_arena_is_not_confused_with_its_successor(arena):
    Arena.destroy(arena.path)
    with Arena.create(arena.path, EXTENT_ALIGN) as successor:
        assert successor.lease("k") is None
        with pytest.raises(ArenaError, match="it has been destroyed"):
            arena.lease("k")


def test_destroyed_arena_says_so_to_who_waited_for_its_lock(arena):
    lock = arena.path / "lock"

    def opened() -> int:
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(link.is_symlink() and os.readlink(link) == str(lock) for link in links)

    with ThreadPoolExecutor(1) as pool:
        with arena._ledger.locked():
            waiting = pool.submit(arena.lease, "k")
            until(lambda: opened() == 2)
            lock.unlink()

        with pytest.raises(ArenaError, match="it has been destroyed"):
            waiting.result(30)


def test_destroyed_arena_keeps_what_is_leased(arena, put):
    put("k", value=5)
    lease = arena.lease("k")
    Arena.destroy(arena.path)

    assert lease.memory[0] == 5


def test_destroy_leaves_nothing_and_may_be_repeated(arena, shm):
    Arena.destroy(arena.path)
    Arena.destroy(arena.path)

    assert list(shm.iterdir()) == []


def test_closed_arena_refuses_use(arena):
    arena.close()
    arena.close()

    with pytest.raises(ValueError, match="closed"):
        arena.lease("k")


@pytest.mark.parametrize(("key", "nbytes"), [("", 1), ("k" * 5000, 1), ("k", 0)])
def test_reserve_refuses_nonsense(arena, key, nbytes):
    with pytest.raises(ValueError, match=r"characters|bytes"):
        arena.reserve(key, nbytes)


def test_reserve_gives_out_only_what_is_touched(shm):
    ledger.Ledger.make(shm / "a", 2 * EXTENT_ALIGN)  # as if its maker had been killed here
    with Arena.open(shm / "a") as arena:
        with pytest.raises(ArenaFullError, match=f"{2 * EXTENT_ALIGN} not touched yet"):
            arena.reserve("k", 1)

        arena.touch()

        assert arena.reserve("k", 2 * EXTENT_ALIGN) is not None


def test_pieces_are_the_addresses_of_the_memory(arena, put):
    put("k")
    (piece,) = arena.pieces()

    assert piece.nbytes == arena.nbytes
    assert arena.lease("k").tensor().data_ptr() == piece.address


def test_map_pages_saves_the_faults(arena, other):
    process = other()
    assert process.ask("memory_kib", "Rss") == 0
    process.ask("map_pages")

    assert process.ask("memory_kib", "Rss") * 1024 == arena.nbytes


def test_mapping_goes_with_the_last_view(arena, put):
    put("k")
    lease = arena.lease("k")
    view = lease.tensor()
    lease.close()
    arena.close()
    del lease
    name = str(arena.path / "memory")
    assert name in Path("/proc/self/maps").read_text()

    del view

    assert name not in Path("/proc/self/maps").read_text()
