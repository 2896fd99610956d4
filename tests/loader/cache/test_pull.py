"""Into the cache without a device."""

from __future__ import annotations

import threading

import pytest
from support.plain_file_source import FileSource

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.pull import pull
from pilotlight_loader.errors import (
    AccessDeniedError,
    LoadCancelledError,
    ObjectChangedError,
    TransientReadError,
)
from pilotlight_loader.layout import CHUNK_BYTES


class Twice:
    """Two attempts, without a wait."""

    def delay_s(self, attempt, error, random):
        return 0.0 if isinstance(error, TransientReadError) and attempt < 2 else None


@pytest.fixture
def source(stored):
    source = FileSource(stored.path)
    yield source
    assert all(reader.closed for reader in source.readers)
    assert not [t for t in threading.enumerate() if t.name.startswith("cache-")]


def leased_bytes(cache, source):
    with cache.lease(ObjectIdentity.of(source)) as lease:
        return lease.path.read_bytes()


def test_pull_fetches_everything_once(cache, source, stored):
    first = pull(source, cache, retries=Twice())
    second = pull(source, cache, retries=Twice())

    assert leased_bytes(cache, source) == stored.data
    assert (first.fetched_bytes, second.fetched_bytes) == (len(stored.data), 0)
    assert first.digest == second.digest


def test_pull_tells_its_progress(cache, source, stored):
    told = []
    pull(source, cache, retries=Twice(), progress=lambda *step: told.append(step))

    assert {(phase, total) for phase, _, total in told} == {("fetch", len(stored.data))}
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert told[-1][1] == len(stored.data)


def test_pull_tries_again_where_that_helps(cache, source, stored):
    failed = set()

    def flaky(start):
        if start not in failed:
            failed.add(start)
            raise TransientReadError(source.location, "503")

    source.before_read = flaky
    pull(source, cache, retries=Twice())

    assert leased_bytes(cache, source) == stored.data
    assert len(failed) == 7


def test_pull_that_failed_goes_on_where_it_was(cache, source, stored):
    def refuse(start):
        if start >= 2 * CHUNK_BYTES - source.part_bytes:
            raise AccessDeniedError(source.location, "expired")

    source.before_read = refuse
    source.parallel = 1  # else a part of the first chunk may be on its way when the other fails
    with pytest.raises(AccessDeniedError):
        pull(source, cache, retries=Twice())
    source.before_read = lambda start: None
    told = []
    again = pull(source, cache, retries=Twice(), progress=lambda *step: told.append(step))

    assert told[0] == ("check", CHUNK_BYTES, CHUNK_BYTES)
    assert told[1][:2] == ("fetch", CHUNK_BYTES + 4 * 1024 * 1024)  # the rest of that part
    assert again.fetched_bytes == len(stored.data) - CHUNK_BYTES
    assert leased_bytes(cache, source) == stored.data


def test_pull_of_a_changed_object_keeps_nothing_of_it(cache, source):
    def changed(start):
        raise ObjectChangedError(source.location, "etag v1 became v2")

    source.before_read = changed
    with pytest.raises(ObjectChangedError):
        pull(source, cache, retries=Twice())

    assert cache.entries() == []


def test_pull_can_be_cancelled(cache, source):
    cancel = threading.Event()
    source.before_read = lambda start: cancel.set()
    with pytest.raises(LoadCancelledError):
        pull(source, cache, retries=Twice(), cancel=cancel)

    assert [entry.leased for entry in cache.entries()] == [False]


def test_pull_follows_one_that_runs(cache, source, stored):
    entered, go_on = threading.Event(), threading.Event()

    def slow(start):
        entered.set()
        assert go_on.wait(30)

    source.before_read = slow
    pulled = []
    leader = threading.Thread(target=lambda: pulled.append(pull(source, cache, retries=Twice())))
    leader.start()
    assert entered.wait(30)
    other = FileSource(stored.path)
    follower = threading.Thread(target=lambda: pulled.append(pull(other, cache, retries=Twice())))
    follower.start()
    go_on.set()
    leader.join(30)
    follower.join(30)

    assert sorted(one.fetched_bytes for one in pulled) == [0, len(stored.data)]
    assert other.readers == []


def test_pull_of_an_empty_object(cache, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    source = FileSource(tmp_path / "empty")

    assert pull(source, Cache(tmp_path / "c"), retries=Twice()).nbytes == 0
