from __future__ import annotations

import ctypes
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar

import pytest

from pilotlight_loader.arena import file_copy
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.fill import fill, fill_from_file
from pilotlight_loader.arena.read_lease import ReadLease
from pilotlight_loader.errors import ArenaFullError, CheckpointError, LoadCancelledError

READ_BYTES = EXTENT_ALIGN  # the shortest span


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Two whole reads and a bit, of random bytes; a span is one read."""
    monkeypatch.setattr(file_copy, "CHUNK_BYTES", READ_BYTES)
    monkeypatch.setattr(file_copy, "SPAN_BYTES", READ_BYTES)
    monkeypatch.setattr(file_copy, "MAP_S_PER_BYTE", 1.0)  # however it is mapped
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(2 * READ_BYTES + 12_345))
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_fill_brings_the_whole_file(arena, file, threads):
    with fill_from_file(arena, "k", file, threads=threads) as lease:
        assert bytes(lease.memory) == file.read_bytes()


def test_fill_reads_nothing_that_is_here(arena, file):
    fill_from_file(arena, "k", file).close()
    file.unlink()

    with fill_from_file(arena, "k", file) as lease:
        assert lease.nbytes == 2 * READ_BYTES + 12_345


def test_fill_is_done_once_by_many_threads(arena):
    calls = []
    together = threading.Barrier(4)

    def ask(_: int) -> bytes:
        together.wait(10)
        with fill(arena, "k", 3, write) as lease:
            return bytes(lease.memory)

    def write(memory: memoryview) -> None:
        calls.append(1)
        memory[:] = b"abc"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [b"abc"] * 4
    assert len(calls) == 1


def test_fill_takes_over_from_a_killed_process(arena, file, other):
    leader = other()
    leader.ask("reserve", "k", file.stat().st_size)
    leader.ask("write", "k", 9)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fill_from_file, arena, "k", file)
        leader.kill()

        assert bytes(asked.result(30).memory) == file.read_bytes()


def test_fill_waits_for_another_process(arena, file, other):
    process = other()
    filling = arena.reserve("k", 3)
    process.begin("fill", "k", file)
    filling.commit()

    assert process.answer() == 3  # what was committed, not the file


def test_fill_that_fails_leaves_the_arena_empty(arena):
    def write(memory: memoryview) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill(arena, "k", 3, write)

    assert arena.lease("k") is None
    assert arena.reserve("k", arena.nbytes) is not None


def test_fill_of_a_missing_file_names_it(arena, tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        fill_from_file(arena, "k", tmp_path / "nowhere")


def test_fill_of_too_much_is_refused(arena, file):
    os.truncate(file, arena.nbytes + 1)

    with pytest.raises(ArenaFullError):
        fill_from_file(arena, "k", file)


def test_fill_is_cancelled(arena, file):
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(LoadCancelledError):
        fill_from_file(arena, "k", file, cancel=cancel)
    assert arena.entries() == ()


def test_fill_has_no_thread_that_would_keep_the_process(arena, file):
    # One that is stuck in the disk is left behind: engine/host_tier.py.
    threads = set()
    before_each = _BeforeEachChunk(*[lambda: threads.add(threading.current_thread())] * 9)
    fill_from_file(arena, "k", file, threads=3, cancel=before_each).close()

    others = threads - {threading.current_thread()}
    assert all(thread.daemon for thread in others)


def test_fill_by_threads_of_which_one_fails_is_that_error(arena, file):
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill_from_file(arena, "k", file, threads=3, cancel=_BeforeEachChunk(fails))
    assert arena.entries() == ()


class _BeforeEachChunk(threading.Event):
    """Asked before each chunk whether to stop; does something to the file instead."""

    def __init__(self, *acts) -> None:
        super().__init__()
        self._acts = list(acts)

    def is_set(self) -> bool:
        if self._acts:
            self._acts.pop(0)()
        return False


def wants_to_write(file):
    """Somebody else opens it to write: under a lease that is refused to who will not wait."""

    def act() -> None:
        with suppress(BlockingIOError):
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))

    return act


@pytest.fixture
def reads(monkeypatch):
    """Where each read began; what is copied from a mapping is not read."""
    begun = []
    real = os.preadv

    def preadv(descriptor, buffers, start):
        begun.append(start)
        return real(descriptor, buffers, start)

    monkeypatch.setattr(os, "preadv", preadv)
    return begun


@pytest.fixture
def leases(tmp_path):
    """A file system and a user that get leases."""
    (tmp_path / "probe").touch()
    with (tmp_path / "probe").open("rb") as probe:
        lease = ReadLease.take(probe.fileno())
        if lease is None:
            pytest.skip("no leases here")
        lease.close()


@pytest.mark.usefixtures("leases")
def test_fill_copies_from_a_mapping_while_nobody_can_change_the_file(arena, file, reads):
    with fill_from_file(arena, "k", file) as lease:
        assert bytes(lease.memory) == file.read_bytes()
    assert reads == []


@pytest.mark.usefixtures("leases")
def test_fill_reads_on_where_mapping_costs_more_than_it_gains(arena, file, reads, monkeypatch):
    monkeypatch.setattr(file_copy, "MAP_S_PER_BYTE", -1.0)
    with fill_from_file(arena, "k", file, threads=1) as lease:
        assert bytes(lease.memory) == file.read_bytes()
    assert reads == [0, READ_BYTES, 2 * READ_BYTES]


@pytest.mark.usefixtures("leases")
@pytest.mark.parametrize("threads", [1, 2])
def test_fill_copies_as_much_at_once_as_its_threads_allow(arena, file, monkeypatch, threads):
    # memcpy writes past the caches where a copy is much longer than they are.
    monkeypatch.setattr(file_copy, "SPAN_BYTES", file.stat().st_size)
    copied = []
    real = ctypes.memmove

    def memmove(target, source, nbytes):
        copied.append(nbytes)
        return real(target, source, nbytes)

    monkeypatch.setattr(ctypes, "memmove", memmove)
    with fill_from_file(arena, "k", file, threads=threads) as lease:
        assert bytes(lease.memory) == file.read_bytes()
    assert len(copied) == threads


def test_fill_of_a_file_that_is_open_for_writing_reads_it(arena, file, reads):
    with file.open("rb+"), fill_from_file(arena, "k", file, threads=1) as lease:
        assert bytes(lease.memory) == file.read_bytes()
    assert reads == [0, READ_BYTES, 2 * READ_BYTES]


@pytest.mark.usefixtures("leases")
def test_fill_reads_on_when_somebody_wants_to_write(arena, file, reads):
    wish = _BeforeEachChunk(lambda: None, wants_to_write(file))
    with fill_from_file(arena, "k", file, threads=1, cancel=wish) as lease:
        assert bytes(lease.memory) == file.read_bytes()
    assert reads == [READ_BYTES, 2 * READ_BYTES]


@pytest.mark.usefixtures("leases")
def test_fill_keeps_nobody_waiting_who_wants_to_write(arena, file):
    # Not refused any more before the third chunk: the lease ended with the second.
    def opens() -> None:
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))

    wish = _BeforeEachChunk(lambda: None, wants_to_write(file), opens)
    fill_from_file(arena, "k", file, threads=1, cancel=wish).close()


def test_fill_of_a_file_that_is_cut_meanwhile_is_an_error(arena, file):
    cut = _BeforeEachChunk(wants_to_write(file), lambda: os.truncate(file, 10))

    with pytest.raises(CheckpointError, match="it was cut while it was read"):
        fill_from_file(arena, "k", file, threads=1, cancel=cut)
    assert arena.entries() == ()


def test_fill_of_a_file_that_changes_meanwhile_is_an_error(arena, file):
    changed = _BeforeEachChunk(lambda: os.utime(file, ns=(1, 1)))

    with pytest.raises(CheckpointError, match="was changed while it was read"):
        fill_from_file(arena, "k", file, cancel=changed)
    assert arena.entries() == ()


@pytest.mark.usefixtures("leases")
def test_fill_leaves_no_lease(arena, file):
    fill_from_file(arena, "k", file).close()

    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))


def test_fill_that_is_interrupted_at_its_end_waits_for_its_threads(arena, file, monkeypatch):
    # Else they would go on writing to an extent that belongs to somebody else by now.
    at_work, may_end = threading.Event(), threading.Event()
    real = file_copy._read

    def slow(*args) -> None:
        if threading.current_thread() is not threading.main_thread():
            at_work.set()
            assert may_end.wait(10)
        real(*args)

    class Interrupted(threading.Thread):
        helpers: ClassVar[list[threading.Thread]] = []

        def join(self, timeout: float | None = None) -> None:
            if not may_end.is_set():
                assert at_work.wait(10)
                self.helpers.append(self)
                may_end.set()
                raise KeyboardInterrupt
            super().join(timeout)

    monkeypatch.setattr(file_copy, "_read", slow)
    monkeypatch.setattr(file_copy.ReadLease, "take", lambda descriptor: None)
    monkeypatch.setattr(file_copy.threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill_from_file(arena, "k", file, threads=2)

    assert [helper.is_alive() for helper in Interrupted.helpers] == [False]
    assert arena.lease("k") is None
