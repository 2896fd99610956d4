"""Capacity, order of eviction, removal."""

from __future__ import annotations

import os
import time

import pytest
from support.cache_content import begin, publish, small

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.eviction import STALE_PART_S
from pilotlight_loader.errors import CacheFullError, DiskFullError

TEN = b"ten bytes."


@pytest.fixture
def cache(tmp_path):
    """Room for three objects of ten bytes."""
    return Cache(tmp_path / "cache", capacity_bytes=30)


def names(cache):
    return [entry.location.rpartition("/")[2] for entry in cache.entries()]


def content(name):
    return name.encode().ljust(10)


def put(cache, *wanted):
    for name in wanted:
        publish(cache, small(name, content(name)), content(name))


def age(cache, name, seconds):
    """As if *name* had been used so long before now."""
    ref = cache.directory / "refs" / f"{small(name, content(name)).key}.json"
    then = time.time() - seconds
    os.utime(ref, (then, then))


def test_eviction_takes_the_least_recently_used(cache):
    put(cache, "a", "b", "c")
    for seconds, name in ((30, "a"), (20, "b"), (10, "c")):
        age(cache, name, seconds)
    cache.lease(small("a", content("a"))).close()
    put(cache, "d")

    assert names(cache) == ["a", "c", "d"]


def test_eviction_takes_no_more_than_is_needed(cache):
    put(cache, "a", "b", "c", "d")

    assert names(cache) == ["b", "c", "d"]
    assert cache.nbytes() == 30


def test_eviction_makes_no_room_for_what_can_never_fit(cache):
    put(cache, "a", "b", "c")
    with pytest.raises(CacheFullError, match="31 bytes are needed, 0 of 30 are free and 0 are"):
        cache.begin(small("big", bytes(31)))

    assert names(cache) == ["a", "b", "c"]
    assert os.listdir(cache.directory / "fills") == []


def test_eviction_counts_running_fills_and_leaves_them(cache):
    put(cache, "a")
    with begin(cache, small("b", bytes(20))), pytest.raises(CacheFullError):
        cache.begin(small("c", bytes(20)))

    assert names(cache) == ["a", "b"]


def test_eviction_takes_parts_without_a_leader(cache):
    begin(cache, small("part", bytes(20))).abandon()
    put(cache, "a", "b", "c")

    assert names(cache) == ["a", "b", "c"]


def test_eviction_leaves_a_part_that_waits_for_room(cache):
    begin(cache, small("part", bytes(20))).abandon()
    put(cache, "a")
    with cache.lease(small("a", content("a"))):
        less = Cache(cache.directory, capacity_bytes=25)
        with pytest.raises(CacheFullError, match="0 bytes are needed"):
            less.begin(small("part", bytes(20)))

    assert names(cache) == ["a", "part"]


def test_eviction_frees_the_bytes_once_when_locations_share_them(cache):
    for name in ("a", "b"):
        publish(cache, small(name, TEN), TEN)
    put(cache, "c", "d", "e")

    assert names(cache) == ["c", "d", "e"]
    assert len(os.listdir(cache.directory / "refs")) == 3


def test_eviction_drops_stale_parts(cache):
    begin(cache, small("old")).abandon()
    part = next((cache.directory / "fills").glob("*.part"))
    then = time.time() - STALE_PART_S - 1
    os.utime(part, (then, then))
    put(cache, "a")

    assert names(cache) == ["a"]


def test_eviction_makes_room_on_a_disk_that_is_full(tmp_path, monkeypatch):
    """The file system's answer is the only thing that is replaced."""
    cache = Cache(tmp_path / "cache")
    put(cache, "a", "b")
    monkeypatch.setattr("pilotlight_loader.cache.eviction.free_bytes", lambda directory: 15)
    put(cache, "c")
    with pytest.raises(DiskFullError, match="50 bytes are needed, 15 are free"):
        cache.begin(small("d", bytes(50)))
    begin(cache, small("e", bytes(20))).abandon()

    assert names(cache) == ["b", "c", "e"]


def test_lease_of_what_is_not_there_is_none(cache):
    assert cache.lease(small("a")) is None


def test_lease_of_another_version_is_none(cache):
    publish(cache, small("a", TEN, "v1"), TEN)

    assert cache.lease(small("a", TEN, "v2")) is None


def test_lease_keeps_its_bytes_when_they_are_removed_all_the_same(cache):
    put(cache, "a")
    with cache.lease(small("a", content("a"))) as lease:
        lease.path.unlink()

        assert cache.lease(small("a", content("a"))) is None


def test_lease_with_a_broken_ref_is_none_and_can_be_filled_again(cache):
    put(cache, "a")
    ref = next((cache.directory / "refs").iterdir())
    ref.write_bytes(ref.read_bytes().replace(b'"checksums": ["', b'"checksums": ["00'))
    lost = cache.lease(small("a", content("a")))
    put(cache, "a")

    assert lost is None
    assert names(cache) == ["a"]


def test_prune_removes_what_was_not_used(cache):
    put(cache, "a", "b")
    age(cache, "a", 3600)
    removal = cache.prune(unused_for_s=1800)

    assert [entry.location for entry in removal.removed] == ["s3://bucket/a"]
    assert removal.freed_bytes == 10
    assert names(cache) == ["b"]


def test_prune_to_a_capacity_skips_what_is_leased(cache):
    put(cache, "a", "b", "c")
    with cache.lease(small("a", content("a"))):
        age(cache, "a", 100)
        removal = cache.prune(capacity_bytes=10)

    assert [entry.location for entry in removal.in_use] == ["s3://bucket/a"]
    assert names(cache) == ["a"]


def test_prune_sweeps_what_killed_processes_left(cache):
    put(cache, "a")
    blob = next((cache.directory / "blobs").iterdir())
    key = small("z").key
    for name in (f"{key}.lock", f"{key}.journal", f"{key}.journal.tmp"):
        (cache.directory / "fills" / name).write_bytes(b"")
    (cache.directory / "refs" / f"{key}.json.tmp").write_bytes(b"")
    orphan = cache.directory / "blobs" / ("0" * 64)
    orphan.write_bytes(TEN)
    cache.prune()

    assert os.listdir(cache.directory / "fills") == []
    assert os.listdir(cache.directory / "blobs") == [blob.name]
    assert len(os.listdir(cache.directory / "refs")) == 1


def test_remove_takes_all_under_a_location(cache):
    put(cache, "m/a", "m/b", "mn")
    removal = cache.remove("s3://bucket/m")

    assert len(removal.removed) == 2
    assert names(cache) == ["mn"]


def test_remove_by_digest(cache):
    digest = publish(cache, small("a", TEN), TEN)
    publish(cache, small("b", TEN), TEN)
    removal = cache.remove(digest)

    assert (len(removal.removed), removal.freed_bytes) == (2, 10)
    assert names(cache) == []


def test_remove_leaves_bytes_that_another_location_has(cache):
    for name in ("a", "b"):
        publish(cache, small(name, TEN), TEN)
    removal = cache.remove("s3://bucket/a")

    assert ([entry.location for entry in removal.removed], removal.freed_bytes) == (
        ["s3://bucket/a"],
        0,
    )
    with cache.lease(small("b", TEN)) as lease:
        assert lease.path.read_bytes() == TEN


def test_remove_refuses_what_is_in_use(cache):
    put(cache, "a")
    with cache.lease(small("a", content("a"))):
        removal = cache.remove("s3://bucket/a")

    assert (len(removal.removed), len(removal.in_use)) == (0, 1)
    assert names(cache) == ["a"]


def test_entries_tell_partial_and_running(cache, stored):
    cache = Cache(cache.directory)
    begin_one = begin(cache, stored.identity)
    with begin_one as filling:
        filling.write(0, stored.data[: 17 << 20], lambda: None)
        running = cache.entries()
    left = cache.entries()

    assert [(entry.partial, entry.leased) for entry in running] == [(True, True)]
    assert [(entry.partial, entry.leased) for entry in left] == [(True, False)]
    assert (left[0].present_bytes, left[0].nbytes) == (16 << 20, len(stored.data))
    assert left[0].location == stored.identity.location
