"""Many processes at one cache, and any of them killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
from support.cache_content import begin, publish, small, write_missing
from support.cache_process import CacheProcess
from support.waiting import until

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.ranges import ByteRange
from pilotlight_loader.errors import CacheError, CacheFullError, LoadCancelledError
from pilotlight_loader.layout import CHUNK_BYTES

UPTO = CHUNK_BYTES + 4_000_000


@pytest.fixture
def leader(cache, stored):
    """A process that leads the fill; the first chunk and a bit are written."""
    with CacheProcess(cache.directory, "fill", stored.identity, stored.path, UPTO) as process:
        assert process.line() == "written"
        yield process


def test_process_dead_leader_is_replaced_and_its_chunks_are_used(cache, stored, leader):
    refused = cache.begin(stored.identity)
    leader.kill()
    found = cache.claim(stored.identity, 30.0)

    assert refused is None
    assert isinstance(found, Filling)
    with found as filling:
        assert filling.missing() == [ByteRange(CHUNK_BYTES, len(stored.data))]
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            assert lease.path.read_bytes() == stored.data


def test_process_follower_wakes_when_its_leader_is_killed(cache, stored, leader):
    answers = []
    follower = threading.Thread(target=lambda: answers.append(cache.wait(stored.identity, 30.0)))
    follower.start()
    follower.join(0.1)
    waited = follower.is_alive()
    leader.kill()
    follower.join(10)

    assert waited
    assert answers == [None]


def test_process_follower_gets_what_its_leader_publishes(cache, stored, leader):
    leader.go()
    with cache.wait(stored.identity, 30.0) as lease:
        assert lease.path.read_bytes() == stored.data


def test_process_follower_sees_the_leaders_progress(cache, stored, leader):
    told = []
    cache.wait(stored.identity, 0.1, progress=lambda *step: told.append(step))

    assert told == [(CHUNK_BYTES, len(stored.data))]


def test_process_follower_waits_no_longer_than_asked(cache, stored, leader):
    assert cache.wait(stored.identity, 0.05) is None
    with pytest.raises(CacheError, match="fetches it for more than"):
        cache.claim(stored.identity, 0.05)


def test_process_frozen_leader_is_not_replaced_and_publishes_what_it_should(cache, stored, leader):
    # Its lock is the kernel's and has no time: two writers there are never.
    leader.freeze()
    leader.go()
    with pytest.raises(CacheError, match="load without the cache, or end that process"):
        cache.claim(stored.identity, 0.2)
    assert cache.begin(stored.identity) is None
    leader.thaw()

    with cache.wait(stored.identity, 30.0) as lease:
        assert lease.path.read_bytes() == stored.data
    assert cache.verify(lease.digest) == len(stored.data)


def test_process_frozen_leader_that_is_killed_is_replaced(cache, stored, leader):
    leader.freeze()
    leader.kill()

    with cache.claim(stored.identity, 30.0) as filling:
        assert isinstance(filling, Filling)


def test_process_follower_can_be_cancelled(cache, stored, leader):
    cancel = threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    with pytest.raises(LoadCancelledError):
        cache.claim(stored.identity, 30.0, cancel)
    timer.join()


def test_process_of_two_that_race_one_leads(cache, stored):
    with (
        CacheProcess(cache.directory, "claim", stored.identity, stored.path) as one,
        CacheProcess(cache.directory, "claim", stored.identity, stored.path) as two,
    ):
        assert [one.line(), two.line()] == ["ready", "ready"]
        one.go()
        two.go()
        answers = sorted((one.line(), two.line()))

    assert answers == ["followed", "led"]
    with cache.lease(stored.identity) as lease:
        assert lease.path.read_bytes() == stored.data


def test_process_two_locations_of_the_same_bytes_may_be_published_at_once(cache, stored):
    other = small("copy", stored.data)
    with (
        CacheProcess(cache.directory, "claim", stored.identity, stored.path) as one,
        CacheProcess(cache.directory, "claim", other, stored.path) as two,
    ):
        assert [one.line(), two.line()] == ["ready", "ready"]
        one.go()
        two.go()
        answers = (one.line(), two.line())

    assert answers == ("led", "led")
    assert len(os.listdir(cache.directory / "blobs")) == 1
    assert os.listdir(cache.directory / "fills") == []
    assert {entry.location for entry in cache.entries()} == {
        stored.identity.location,
        other.location,
    }


def test_process_threads_of_one_process_elect_a_leader_too(cache):
    identity, found, barrier = small("a"), [], threading.Barrier(8)

    def claim():
        barrier.wait()
        mine = cache.claim(identity, 30.0)
        if isinstance(mine, Filling):
            write_missing(mine, memoryview(b"some bytes"))
            mine.publish().close()
        else:
            mine.close()
        found.append(type(mine))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found.count(Filling) == 1
    assert found.count(Lease) == 7


def test_process_lease_of_another_is_never_evicted(tmp_path):
    cache = Cache(tmp_path / "cache", capacity_bytes=25)
    publish(cache, small("a"), b"some bytes")
    publish(cache, small("b", b"10 others."), b"10 others.")
    with CacheProcess(cache.directory, "lease", small("a")) as other:
        assert other.line() == "leased"
        publish(cache, small("c", b"ten more.."), b"ten more..")
        kept = {entry.location.rpartition("/")[2]: entry.leased for entry in cache.entries()}
        with pytest.raises(CacheFullError, match=r"20 bytes are needed, 5 of 25 are free and 10"):
            cache.begin(small("d", bytes(20)))

    # The lease went with its process.
    until(lambda: not any(entry.leased for entry in cache.entries()))
    publish(cache, small("d", bytes(20)), bytes(20))

    assert kept == {"a": True, "c": False}
    assert [entry.location for entry in cache.entries()] == ["s3://bucket/d"]


def test_process_killed_at_any_line_harms_nothing(cache, tmp_path):
    content = os.urandom(100_000)
    source = tmp_path / "source"
    source.write_bytes(content)
    with CacheProcess(
        cache.directory, "die_at_each_line", small("a", content), source, 5
    ) as process:
        said, killed = process.line(120.0).split()

    assert said == "killed"
    assert int(killed) > 50


def test_process_file_size_limit_in_the_middle_leaves_the_load_alone(cache, stored):
    """The limit is met by pwrite() in a writer thread, as a full disk is."""
    with CacheProcess(
        cache.directory, "fill_limited", stored.identity, stored.path, UPTO
    ) as process:
        assert process.line() == "DiskFullError 1"
        assert process.line() == "taken False 2"

    assert os.listdir(cache.directory / "fills") == []


def can_run(*command):
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


def test_process_full_disk_is_told_at_the_start(tmp_path):
    """A tmpfs of 1 MB in a mount namespace of the child's own."""
    under = (
        "unshare",
        "-Urm",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=1m none {tmp_path} && "$@"',
        "",
    )
    if not can_run(*under, "true"):
        pytest.skip("no mount namespaces here")
    with CacheProcess(tmp_path / "c", "begin", small("a", bytes(2 << 20)), under=under) as process:
        answer = process.line()

    assert answer.startswith(f"DiskFullError {tmp_path}/c: the disk is full: 2097152 bytes are")


def test_process_begin_again_in_one_process_is_refused(cache):
    with begin(cache, small("a")):
        assert cache.begin(small("a")) is None
        begin(cache, small("b")).abandon()
