"""The seam to a cache: all bytes of the object reach it, its failures are its own."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
import torch
from support.file_source import FileReader
from support.waiting import until

from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import (
    AccessDeniedError,
    CacheFullError,
    LoadFailedError,
    ObjectChangedError,
    TransientReadError,
)
from pilotlight_loader.pipeline import finishing, ring, write_through
from pilotlight_loader.pipeline.delivering import delivering
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.stream import stream
from pilotlight_loader.sources.retry import RetryPolicy

SMALL = TransferOptions(staging_bytes=1024, range_bytes=2048, hedge=None)


class Entry:
    """Takes bytes when the test lets it, as late as a disk may."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = bytearray(nbytes)
        self.written = bytearray(nbytes)
        self.waiting: list[tuple[int, memoryview, Future[None]]] = []
        self.is_late = False
        self.fails = False
        self.ends: list[str] = []
        self.kept: list[bool] = []
        self.lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return len(self.bytes)

    def write(self, start: int, view: memoryview) -> Future[None]:
        future: Future[None] = Future()
        if self.fails:
            raise OSError(28, "No space left on device")
        with self.lock:
            self.waiting.append((start, view, future))
        if not self.is_late:
            self.write_out()
        return future

    def write_out(self) -> None:
        with self.lock:
            waiting, self.waiting = self.waiting, []
        for start, view, future in waiting:
            self.bytes[start : start + len(view)] = view
            self.written[start : start + len(view)] = b"\x01" * len(view)
            future.set_result(None)

    def missing(self) -> list[tuple[int, int]]:
        return [(n, n + 1) for n, is_there in enumerate(self.written) if not is_there]

    def publish(self) -> None:
        self.ends.append("published")

    def abandon(self, *, keep: bool = True) -> None:
        self.ends.append("abandoned")
        self.kept.append(keep)
        self.is_late = False
        self.write_out()


class Cache:
    def __init__(self, entry: Entry | None) -> None:
        self.entry = entry
        self.sources = {}

    @contextmanager
    def tier(self, sources, *, cancel):
        self.sources = sources
        yield self

    def begin(self, file):
        return self.entry


@pytest.fixture
def entry(file) -> Entry:
    return Entry(file.stat().st_size)


def running() -> SimulatedDevice:
    device = SimulatedDevice()
    device.run()
    return device


@pytest.mark.parametrize("device", [CpuDevice, running])
def test_cache_gets_the_whole_object_and_publishes_it(opened, file, entry, device):
    checkpoint, source = opened()

    list(stream(checkpoint, device(), cache=Cache(entry), options=SMALL))

    assert source.bytes_asked == file.stat().st_size  # nothing was read twice
    assert entry.bytes == file.read_bytes()
    assert entry.ends == ["published"]


def test_cache_gets_the_bytes_as_they_were_read_whatever_becomes_of_the_tensors(
    opened, file, entry
):
    entry.is_late = True
    options = TransferOptions(hedge=None)  # the ring has room for all of it
    checkpoint, _ = opened()
    tensors = stream(checkpoint, CpuDevice(), cache=Cache(entry), options=options)

    for _, tensor in itertools.islice(tensors, len(checkpoint.tensors)):
        tensor.fill_(0)
    entry.is_late = False
    entry.write_out()
    list(tensors)

    assert entry.bytes == file.read_bytes()
    assert entry.ends == ["published"]


def test_a_slow_cache_holds_nobody_back(opened, weights, entry):
    entry.is_late = True
    checkpoint, _ = opened()
    names = list(checkpoint.tensors)

    with delivering(checkpoint, names, running(), cache=Cache(entry), options=SMALL) as delivery:
        delivery.allow(len(delivery.plan.parts))
        delivery.ready(names, timeout_s=20)  # the disk has not taken one part
        waiting = len(entry.waiting)
        found = {name: delivery.tensor(name).clone() for name in names}

    assert 1 <= waiting <= 2  # half of the ring's four buffers
    assert all(torch.equal(found[name], weights[name]) for name in names)


@contextmanager
def lagging(opened, entry, options, **source):
    """A load of which the disk has taken nothing when all tensors are there."""
    entry.is_late = True
    checkpoint, _ = opened(**source)
    names = list(checkpoint.tensors)
    device = running()
    with delivering(checkpoint, names, device, cache=Cache(entry), options=options) as delivery:
        delivery.allow(len(delivery.plan.parts))
        delivery.ready(names, timeout_s=20)
        yield delivery


@pytest.fixture
def small_fill(monkeypatch):
    """A load's end may bring the header beside what was wanted, not much more."""
    monkeypatch.setattr(write_through, "FILL_BYTES", 1024)


@pytest.mark.usefixtures("small_fill")
def test_a_cache_that_lags_behind_is_completed_however_much_it_lacks(opened, file, entry):
    with lagging(opened, entry, SMALL) as delivery:
        entry.is_late = False
        entry.write_out()
        delivery.wait(timeout_s=20)

    assert entry.bytes == file.read_bytes()
    assert entry.ends == ["published"]


@pytest.mark.usefixtures("small_fill")
def test_a_cache_that_lags_behind_has_its_time(opened, entry):
    options = dataclasses.replace(SMALL, complete_cache_s=0.05)
    with lagging(opened, entry, options) as delivery:
        entry.write_out()  # and takes nothing any more
        delivery.wait(timeout_s=20)
        error = delivery.report(None).cache_error

    assert entry.ends == ["abandoned"]
    assert "slower than the link" in error


@pytest.mark.usefixtures("small_fill")
def test_cancel_ends_the_bringing_of_what_the_disk_was_too_slow_for(opened, entry):
    with lagging(opened, entry, SMALL) as delivery:
        entry.write_out()
        waiter = threading.Thread(target=delivery.wait)
        waiter.start()
        until(lambda: len(entry.waiting) > 0)  # it is being brought, and the disk takes nothing
        delivery.cancel()
        waiter.join(20)
        error = delivery.report(None).cache_error

    assert entry.ends == ["abandoned"]
    assert "left before its cache" in error


@pytest.mark.usefixtures("small_fill")
def test_an_object_that_changes_before_the_disk_has_it_is_not_kept(opened, entry):
    changed = threading.Event()

    def refuse(_reader: FileReader, _start: int, _into: memoryview) -> None:
        if changed.is_set():
            raise ObjectChangedError("test", "another version")

    with lagging(opened, entry, SMALL, before_read=refuse) as delivery:
        entry.is_late = False
        entry.write_out()
        changed.set()
        delivery.wait(timeout_s=20)
        error = delivery.report(None).cache_error

    assert entry.kept == [False]
    assert "another version" in error


@pytest.mark.usefixtures("small_fill")
def test_a_cache_that_lags_behind_may_leave_the_rest_to_the_next_load(opened, entry):
    options = dataclasses.replace(SMALL, complete_cache_s=0.0)
    with lagging(opened, entry, options) as delivery:
        entry.is_late = False
        entry.write_out()
        delivery.wait(timeout_s=20)
        error = delivery.report(None).cache_error

    assert entry.ends == ["abandoned"]
    assert "slower than the link" in error


def test_a_cache_that_fails_does_not_fail_the_load(opened, weights, entry):
    entry.fails = True
    checkpoint, _ = opened()

    found = dict(stream(checkpoint, running(), cache=Cache(entry), options=SMALL))

    assert found.keys() == weights.keys()
    assert entry.ends == ["abandoned"]


def test_a_cache_that_cannot_begin_does_not_fail_the_load(opened, weights):
    class Full(Cache):
        def begin(self, file):
            raise CacheFullError("everything in it is leased")

    checkpoint, _ = opened()

    assert dict(stream(checkpoint, cache=Full(None), options=SMALL)).keys() == weights.keys()


def test_a_cache_that_has_the_object_gets_nothing(opened, weights):
    checkpoint, _ = opened()

    assert dict(stream(checkpoint, cache=Cache(None), options=SMALL)).keys() == weights.keys()


def test_a_load_of_few_tensors_publishes_nothing_incomplete(opened, entry, monkeypatch):
    monkeypatch.setattr(write_through, "FILL_BYTES", 1024)
    checkpoint, _ = opened()

    list(stream(checkpoint, names=["t1"], cache=Cache(entry), options=SMALL))

    assert entry.ends == ["abandoned"]


def test_a_load_that_fails_abandons_its_cache_entry(opened, entry):
    def refuse(reader: FileReader, start: int, into: memoryview) -> None:
        if start > 4096:
            raise AccessDeniedError("test", "expired")

    checkpoint, _ = opened(before_read=refuse)
    device = running()

    with pytest.raises(LoadFailedError, match="expired"):
        list(stream(checkpoint, device, cache=Cache(entry), options=SMALL))

    assert entry.ends == ["abandoned"]
    assert device.staged_bytes == 0


def test_a_stream_closed_early_waits_for_the_cache_to_let_go(opened, entry):
    entry.is_late = True
    device = running()
    tensors = stream(opened()[0], device, order=["t8"], cache=Cache(entry), options=SMALL)
    next(tensors)
    until(lambda: len(entry.waiting) > 0)

    tensors.close()  # abandon() lets the writes end

    assert entry.ends == ["abandoned"]
    assert device.staged_bytes == 0


@pytest.fixture
def delivered(opened, entry):
    """A load whose bytes are all on the device, and whose cache is not complete."""
    entry.is_late = True
    checkpoint, _ = opened()
    names = list(checkpoint.tensors)
    options = TransferOptions(hedge=None)  # the ring has room for all of it
    with delivering(
        checkpoint, names, CpuDevice(), cache=Cache(entry), options=options
    ) as delivery:
        delivery.allow(len(delivery.plan.parts))
        delivery.ready(names, timeout_s=20)
        yield delivery


def test_wait_has_its_time_while_the_cache_is_completed(delivered, entry):
    with pytest.raises(TimeoutError, match="disk tier"):
        delivered.wait(timeout_s=0.05)
    entry.write_out()
    entry.is_late = False
    delivered.wait(timeout_s=20)

    assert entry.ends == ["published"]


def test_cancel_ends_the_completion_of_the_cache_not_the_load(delivered, entry, weights):
    with pytest.raises(TimeoutError):
        delivered.wait(timeout_s=0.05)
    delivered.cancel()
    delivered.wait(timeout_s=20)

    assert entry.ends == ["abandoned"]
    assert "left before its cache" in delivered.report(None).cache_error
    assert torch.equal(delivered.tensor("t3"), weights["t3"])


@pytest.fixture
def hanging(entry):
    """A disk whose fsync does not return before the test ends."""
    hangs = threading.Event()
    entry.publish = hangs.wait
    yield hangs
    hangs.set()


@pytest.mark.usefixtures("hanging")
def test_fsync_that_hangs_fails_no_load_whose_tensors_are_there(opened, entry, monkeypatch):
    monkeypatch.setattr(write_through, "FLUSH_S", 0.2)
    monkeypatch.setattr(write_through, "WRITE_S", 0.2)
    monkeypatch.setattr(finishing, "JOIN_S", 0.1)
    checkpoint, _ = opened()
    names = list(checkpoint.tensors)
    options = TransferOptions(hedge=None, complete_cache_s=0)
    with delivering(
        checkpoint, names, CpuDevice(), cache=Cache(entry), options=options
    ) as delivery:
        delivery.allow(len(delivery.plan.parts))
        delivery.wait(timeout_s=20)

    assert "did not end the cache's last write or fsync" in delivery.report(None).cache_error


@pytest.mark.usefixtures("hanging")
def test_cancel_while_an_fsync_hangs_keeps_the_tensors(delivered, entry, weights, monkeypatch):
    monkeypatch.setattr(finishing, "JOIN_S", 0.1)
    entry.is_late = False
    entry.write_out()
    with pytest.raises(TimeoutError):
        delivered.wait(timeout_s=0.2)
    delivered.cancel()
    kept = delivered.tensor("t3")
    delivered.close()

    assert "did not end the cache's last write or fsync" in delivered.report(None).cache_error
    assert torch.equal(kept, weights["t3"])


def test_write_that_hangs_fails_no_load_whose_tensors_are_there(delivered, entry, monkeypatch):
    monkeypatch.setattr(ring, "DRAIN_S", 0.1)
    monkeypatch.setattr(entry, "abandon", lambda **_: None)  # cannot take its write back
    with pytest.raises(TimeoutError):
        delivered.wait(timeout_s=0.05)
    delivered.cancel()
    delivered.wait(timeout_s=20)
    delivered.close()

    assert delivered.report(None).cache_error is not None
    entry.write_out()


def test_what_lacks_is_read_again_as_parts_are(opened, file, entry):
    failures = iter([TransientReadError("test", "busy")])

    def busy_once(_reader: FileReader, start: int, into: memoryview) -> None:
        if start == 0:  # the header, which no tensor needs
            for failure in failures:
                raise failure

    checkpoint, _ = opened(before_read=busy_once)
    retry = RetryPolicy(first_s=0.0, max_s=0.0)
    options = TransferOptions(staging_bytes=1024, hedge=None, retry=retry)

    list(stream(checkpoint, cache=Cache(entry), options=options))

    assert entry.bytes == file.read_bytes()
    assert entry.ends == ["published"]
