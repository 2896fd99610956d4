"""Fetching real files with real threads: order, retries, hedges, ends."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.file_source import FileReader, FileSource, until_aborted
from support.waiting import until

from pilotlight_loader.errors import (
    AccessDeniedError,
    LoaderError,
    ReadAbortedError,
    TransientReadError,
)
from pilotlight_loader.transfer.board import Attempt
from pilotlight_loader.transfer.fetch import Fetch
from pilotlight_loader.transfer.landing import Room
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import HedgePolicy

PART = 64
AT_ONCE = HedgePolicy(factor=0.0, floor_s=0.0, blind_s=0.0, readers_share=1.0)


class Retry:
    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    def delay_s(self, attempt, error, random):
        passing = isinstance(error, TransientReadError) and attempt < self.attempts
        return 0.0 if passing else None


class Memory:
    """A landing in one buffer, as direct landings are; rooms apart are buffers of their own."""

    def __init__(self, nbytes: int, in_place: bool) -> None:
        self.buffer = bytearray(nbytes + 1)  # larger than any part, see is_first
        self.in_place = in_place
        self.landed: list[int] = []
        self.out = 0
        self.closed = False
        self.lock = threading.Lock()

    def take(self) -> Room | None:
        with self.lock:
            if self.closed:
                return None
            self.out += 1
            return _Room(self)

    def close(self) -> None:
        with self.lock:
            self.closed = True


class _Room:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.apart: bytearray | None = None

    def view(self, part: Part, *, apart: bool) -> memoryview:
        if apart or not self.memory.in_place:
            self.apart = bytearray(part.nbytes)
            return memoryview(self.apart)
        return memoryview(self.memory.buffer)[part.at : part.at + part.nbytes]

    def landed(self, part: Part) -> None:
        if self.apart is not None:
            self.memory.buffer[part.at : part.at + part.nbytes] = self.apart
        with self.memory.lock:
            self.memory.landed.append(part.index)
            self.memory.out -= 1

    def give_back(self) -> None:
        with self.memory.lock:
            self.memory.out -= 1


def is_first(into: memoryview) -> bool:
    """Whether this read is not a hedge: only the first one goes to the place itself."""
    return len(into.obj) > len(into)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bytes"
    path.write_bytes(random.Random(0).randbytes(8 * PART))
    return path


@contextmanager
def fetching(
    source: FileSource, *, in_place: bool = True, parts: int = 8, **options
) -> Iterator[tuple[Fetch, Memory, list[BaseException]]]:
    memory = Memory(parts * PART, in_place)
    errors: list[BaseException] = []
    plan = [Part(n, 0, "f", n * PART, (n + 1) * PART, n * PART) for n in range(parts)]
    fetch = Fetch(plan, {"f": source}, memory, on_error=errors.append, **options)
    fetch.allow(parts)
    fetch.start()
    try:
        yield fetch, memory, errors
    finally:
        fetch.stop()
        fetch.join()
    assert memory.out == 0, "a room was not given back"
    assert source.open_readers == 0, "a reader was not closed"


def test_fetch_brings_all_bytes(file):
    with fetching(FileSource(file, parallel=3)) as (fetch, memory, errors):
        until(lambda: len(memory.landed) == 8)

    assert memory.buffer[:-1] == file.read_bytes()
    assert not errors
    assert fetch.counts().nbytes == 8 * PART


def test_fetch_begins_parts_in_order(file):
    source = FileSource(file, parallel=1)
    with fetching(source) as (_, memory, _errors):
        until(lambda: len(memory.landed) == 8)

    assert [start for start, _ in source.reads] == [n * PART for n in range(8)]


def test_fetch_reads_nothing_behind_what_was_allowed(file):
    source = FileSource(file, parallel=1)
    memory = Memory(8 * PART, True)
    parts = [Part(n, 0, "f", n * PART, (n + 1) * PART, n * PART) for n in range(8)]
    fetch = Fetch(parts, {"f": source}, memory, on_error=lambda error: None)
    fetch.start()
    fetch.allow(2)
    until(lambda: len(memory.landed) == 2)

    fetch.stop()
    fetch.join()

    assert source.bytes_asked == 2 * PART


def test_fetch_tries_again_and_succeeds(file):
    failed: set[int] = set()

    def fail_once(reader: FileReader, start: int, into: memoryview) -> None:
        if start not in failed:
            failed.add(start)
            into[:] = b"\xee" * len(into)
            raise TransientReadError("test", "broken connection")

    source = FileSource(file, before_read=fail_once)
    with fetching(source, retry=Retry(2)) as (fetch, memory, errors):
        until(lambda: len(memory.landed) == 8)

    assert memory.buffer[:-1] == file.read_bytes()
    assert fetch.counts().retries == 8
    assert not errors


def test_fetch_gives_up_when_retries_are_used_up(file):
    def fail(reader: FileReader, start: int, into: memoryview) -> None:
        raise TransientReadError("test", "down")

    source = FileSource(file, parallel=1, before_read=fail)
    with fetching(source, retry=Retry(3)) as (_, memory, errors):
        until(lambda: bool(errors))

    assert len(source.reads) == 3
    assert isinstance(errors[0], TransientReadError)
    assert not memory.landed


@pytest.mark.parametrize("error", [AccessDeniedError("test", "no"), OSError("odd"), MemoryError()])
def test_fetch_ends_at_once_on_what_no_retry_mends(file, error):
    waiting = threading.Event()

    def fail_third(reader: FileReader, start: int, into: memoryview) -> None:
        if start != 2 * PART:
            waiting.set()
            until_aborted(reader)
        assert waiting.wait(20)
        raise error

    source = FileSource(file, parallel=3, before_read=fail_third)
    with fetching(source, retry=Retry(9)) as (fetch, memory, errors):
        until(lambda: bool(errors))
        fetch.join()  # without a stop(): all readers were aborted by the failure

    assert errors == [error]
    assert not memory.landed


@pytest.mark.parametrize("in_place", [True, False])
def test_fetch_hedge_wins_and_the_losers_late_bytes_do_not_land(file, in_place):
    first: list[FileReader] = []

    def hang_then_scribble(reader: FileReader, start: int, into: memoryview) -> None:
        if start == 0 and not first:
            first.append(reader)
            assert reader.aborted.wait(20)
            into[:] = b"\xee" * len(into)
            raise ReadAbortedError("test", "aborted")

    source = FileSource(file, parallel=2, before_read=hang_then_scribble)
    with fetching(source, in_place=in_place, hedge=AT_ONCE) as (fetch, memory, errors):
        until(lambda: len(memory.landed) == 8)

    assert memory.buffer[:-1] == file.read_bytes()
    assert sorted(memory.landed) == list(range(8))
    assert fetch.counts().hedges >= 1
    assert not errors


def test_fetch_in_place_lands_a_hedge_only_when_the_loser_is_out(file):
    release = threading.Event()

    def hang_deaf(reader: FileReader, start: int, into: memoryview) -> None:
        if start == 0 and is_first(into):
            assert reader.aborted.wait(20)
            assert release.wait(20)  # aborted, and still inside the kernel
            into[:] = b"\xee" * len(into)

    source = FileSource(file, parallel=2, before_read=hang_deaf)
    with fetching(source, parts=2, hedge=AT_ONCE) as (_, memory, _errors):
        until(lambda: memory.landed == [1])
        held = 0 not in memory.landed
        release.set()
        until(lambda: len(memory.landed) == 2)

    assert held
    assert memory.buffer[:-1] == file.read_bytes()[: 2 * PART]


def test_fetch_takes_the_first_reader_when_its_hedge_breaks_down(file):
    broken = threading.Event()

    def break_hedge(reader: FileReader, start: int, into: memoryview) -> None:
        if is_first(into):
            assert broken.wait(20)
        else:
            broken.set()
            raise TransientReadError("test", "the hedge's connection broke")

    source = FileSource(file, parallel=2, before_read=break_hedge)
    with fetching(source, parts=1, hedge=AT_ONCE) as (_, memory, errors):
        until(lambda: memory.landed == [0])

    assert not errors
    assert memory.buffer[:-1] == file.read_bytes()[:PART]


def test_fetch_ends_when_a_hedge_finds_the_object_changed(file):
    changed = LoaderError("changed")

    def change(reader: FileReader, start: int, into: memoryview) -> None:
        if is_first(into):
            until_aborted(reader)
        raise changed

    source = FileSource(file, parallel=2, before_read=change)
    with fetching(source, parts=1, hedge=AT_ONCE) as (_, memory, errors):
        until(lambda: bool(errors))

    assert errors == [changed]
    assert not memory.landed


def test_fetch_stop_aborts_readers_and_back_offs(file):
    backing_off = threading.Event()

    class Long:
        def delay_s(self, attempt, error, random):
            backing_off.set()
            return 3600.0

    def fail(reader: FileReader, start: int, into: memoryview) -> None:
        if start == 0:
            raise TransientReadError("test", "down")
        until_aborted(reader)

    source = FileSource(file, parallel=2, before_read=fail)
    before = set(threading.enumerate())
    with fetching(source, retry=Long()) as (fetch, _, errors):
        assert backing_off.wait(20)
        fetch.stop()
        fetch.join()

    assert set(threading.enumerate()) <= before
    assert not errors


def test_fetch_drops_a_reader_whose_abort_came_too_late(file):
    slow: list[int] = []
    began, went_on = threading.Event(), threading.Event()

    def end_well_although_aborted(reader: FileReader, start: int, into: memoryview) -> None:
        me = threading.get_ident()
        if start == 0 and is_first(into):
            slow.append(me)
            began.set()
            assert reader.aborted.wait(20)
            reader.is_deaf = True
        elif start == 0:  # the hedge: not before there is somebody to abort
            assert began.wait(20)
        elif me in slow:
            went_on.set()
        elif start >= 2 * PART:
            assert went_on.wait(20)

    source = FileSource(file, parallel=2, before_read=end_well_although_aborted)
    with fetching(source, hedge=AT_ONCE) as (_, memory, errors):
        until(lambda: len(memory.landed) == 8)

    assert not errors
    assert memory.buffer[:-1] == file.read_bytes()


def test_fetch_drops_a_reader_that_is_aborted_as_it_leaves(file, monkeypatch):
    slow: list[int] = []
    began, went_on = threading.Event(), threading.Event()
    finish = Fetch._finish

    def finish_late(fetch: Fetch, attempt: Attempt, room: Room) -> None:
        if attempt.part.index == 0 and not attempt.is_hedge:
            until(lambda: attempt.aborted)  # its last byte is read, and its hedge has won
        finish(fetch, attempt, room)

    def note(_reader: FileReader, start: int, into: memoryview) -> None:
        me = threading.get_ident()
        if start == 0 and is_first(into):
            slow.append(me)
            began.set()
        elif start == 0:  # the hedge: not before there is somebody to abort
            assert began.wait(20)
        elif me in slow:
            went_on.set()
        elif start >= 2 * PART:
            assert went_on.wait(20)

    monkeypatch.setattr(Fetch, "_finish", finish_late)
    source = FileSource(file, parallel=2, before_read=note)
    with fetching(source, hedge=AT_ONCE) as (_, memory, errors):
        until(lambda: len(memory.landed) == 8)

    assert not errors
    assert memory.buffer[:-1] == file.read_bytes()
