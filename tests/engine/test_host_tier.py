"""Replicas that attach from the node's arena, and bring themselves into it."""

import gc
import os
import shutil
import threading
from pathlib import Path

import pytest
from support.waiting import until

from pilotlight_loader import Arena, LoadCancelledError
from pilotlight_platform.engine import host_tier as host_tier_module
from pilotlight_platform.engine.host_tier import HostTier, host_key
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton

ARENA_BYTES = 16 << 20


@pytest.fixture
def path(tmp_path):
    """Where an arena may be: in memory, as the tests' own directory may not be."""
    found = Path("/dev/shm") / f"pilotlight-test-{tmp_path.parent.name}-{tmp_path.name}"
    yield found
    Arena.destroy(found)


@pytest.fixture
def host_tier(path):
    Arena.create(path, ARENA_BYTES, threads=1).close()
    tier = HostTier.open(path)
    assert tier is not None
    yield tier
    tier.close()


@pytest.fixture
def skeleton(baked):
    return Skeleton.load(baked("qwen2"))


@pytest.fixture
def filled(host_tier, skeleton):
    """The tier after one attach and its fill."""
    replica = Replica.attach(skeleton, host_tier=host_tier)
    replica.bring_to_host()
    assert host_tier.wait(30)
    replica.detach()
    return host_tier


def entries(path):
    with Arena.open(path) as arena:
        return {entry.key: entry for entry in arena.entries()}


def test_host_tier_gets_what_was_attached_and_nobody_holds_it(path, filled, skeleton):
    entry = entries(path)[host_key(skeleton.baked)]

    assert (entry.state, entry.held) == ("ready", False)
    assert entry.nbytes == skeleton.baked.nbytes


def test_replica_from_the_arena_answers_like_one_from_the_file(path, filled, skeleton, submit):
    plain = Replica.attach(skeleton)
    expected = submit(plain, [5, 6], max_tokens=8, ignore_eos=True).finish().tokens
    plain.detach()

    replica = Replica.attach(skeleton, host_tier=filled)
    answer = submit(replica, [5, 6], max_tokens=8, ignore_eos=True).finish().tokens

    assert answer == expected
    assert entries(path)[host_key(skeleton.baked)].held
    assert {span.tier for span in replica.spans} == {"host"}
    replica.detach()


def test_replica_that_is_detached_lets_its_extent_go(path, filled, skeleton):
    replica = Replica.attach(skeleton, host_tier=filled)
    assert entries(path)[host_key(skeleton.baked)].held

    replica.detach()
    del replica
    gc.collect()

    assert not entries(path)[host_key(skeleton.baked)].held


def test_replica_writes_into_its_own_copy_of_a_page(filled, skeleton):
    replica = Replica.attach(skeleton, host_tier=filled)
    weight = next(skeleton.module.parameters()).data
    before = weight.clone()
    weight.add_(1)
    replica.detach()

    again = Replica.attach(skeleton, host_tier=filled)

    assert next(skeleton.module.parameters()).equal(before)
    again.detach()


def test_host_tier_that_is_full_leaves_the_page_cache(path, skeleton, submit):
    Arena.create(path, 4096, threads=1).close()
    tier = HostTier.open(path)
    with Arena.open(path) as arena:
        taken = arena.reserve("other", arena.nbytes)
        replica = Replica.attach(skeleton, host_tier=tier)
        replica.bring_to_host()
        assert tier.wait(30)

        assert submit(replica, [5, 6]).finish().tokens
        assert list(entries(path)) == ["other"]
        replica.detach()
        taken.abandon()
    tier.close()


def test_host_tier_whose_arena_was_destroyed_leaves_the_page_cache(path, filled, skeleton, submit):
    Arena.destroy(path)

    replica = Replica.attach(skeleton, host_tier=filled)
    replica.bring_to_host()

    assert filled.wait(30)
    assert submit(replica, [5, 6]).finish().tokens
    replica.detach()


def test_host_tier_that_is_closed_leaves_the_page_cache(filled, skeleton, submit):
    filled.close()
    filled.close()

    replica = Replica.attach(skeleton, host_tier=filled)
    replica.bring_to_host()

    assert submit(replica, [5, 6]).finish().tokens
    replica.detach()


def test_host_tier_without_an_arena_is_none(path):
    assert HostTier.open(path) is None


def test_detach_cancels_a_fill_that_waits(path, host_tier, skeleton):
    with Arena.open(path) as arena:
        elsewhere = arena.reserve(host_key(skeleton.baked), skeleton.baked.nbytes)
        replica = Replica.attach(skeleton, host_tier=host_tier)
        replica.bring_to_host()
        assert not host_tier.wait(0.05)

        replica.detach()

        assert host_tier.wait(30)
        elsewhere.abandon()


def test_detach_does_not_wait_for_a_fill_that_is_stuck(host_tier, skeleton, monkeypatch):
    free, cancelled = threading.Event(), []

    def stuck(*_arguments, cancel, **_options):
        free.wait(30)  # as in a disk that does not answer
        cancelled.append(cancel.is_set())
        raise LoadCancelledError("cancelled")

    monkeypatch.setattr(host_tier_module, "fill_from_file", stuck)
    replica = Replica.attach(skeleton, host_tier=host_tier)
    replica.bring_to_host()

    replica.detach()

    assert not skeleton.attached
    assert not host_tier.wait(0)  # it is still in there
    free.set()
    assert host_tier.wait(30)
    assert cancelled == [True]


def test_host_tier_copies_one_checkpoint_at_a_time(path, host_tier, skeleton, baked):
    other = Skeleton.load(baked("llama"))
    with Arena.open(path) as arena:
        elsewhere = arena.reserve(host_key(skeleton.baked), skeleton.baked.nbytes)
        first = Replica.attach(skeleton, host_tier=host_tier)
        second = Replica.attach(other, host_tier=host_tier)
        first.bring_to_host()
        second.bring_to_host()
        elsewhere.abandon()
        assert host_tier.wait(30)
        assert list(entries(path)) == [host_key(skeleton.baked)]

        second.bring_to_host()
        until(lambda: host_key(other.baked) in entries(path))

    assert host_tier.wait(30)
    first.detach()
    second.detach()


def test_host_key_is_of_the_content(skeleton, baked, tmp_path):
    copy = Path(shutil.copytree(baked("qwen2"), tmp_path / skeleton.directory.name))
    other = Path(shutil.copytree(baked("llama"), tmp_path / "x" / skeleton.directory.name))

    assert host_key(Skeleton.load(copy).baked) == host_key(skeleton.baked)
    assert host_key(Skeleton.load(other).baked) != host_key(skeleton.baked)


def test_stage_from_the_disk_has_the_floor_of_that_link(baked, tmp_path):
    copy = Path(shutil.copytree(baked("qwen2"), tmp_path / "revision"))
    skeleton = Skeleton.load(copy)
    with skeleton.baked.path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    replica = Replica.attach(skeleton, floors={"disk": 1e6})
    assert replica.wait_staged(30)
    stage = next(span for span in replica.spans if span.name == "stage")
    replica.detach()
    if stage.tier == "host":
        pytest.skip("this file system keeps its pages")

    assert 0 < stage.floor_s <= stage.nbytes / 1e6


def test_stage_from_memory_has_no_floor(filled, skeleton):
    replica = Replica.attach(skeleton, host_tier=filled, floors={"disk": 1e6})
    stage = next(span for span in replica.spans if span.name == "stage")
    replica.detach()

    assert (stage.tier, stage.floor_s) == ("host", None)
