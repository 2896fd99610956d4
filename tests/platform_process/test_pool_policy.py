"""The policy inside Serve's controller: never blocks, never raises, holds what is stale."""

import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from support.waiting import until

from pilotlight_platform.pool_policy import CHANNEL, STALE_S, SnapshotPolicy, Target
from pilotlight_platform.store.embedded import EmbeddedRedis


@dataclass
class Context:
    target_num_replicas: int


@pytest.fixture
def deaf() -> SnapshotPolicy:
    """A policy whose Redis does not answer."""
    return SnapshotPolicy("unix:///nowhere/redis.sock")


def test_policy_that_has_heard_nothing_holds(deaf: SnapshotPolicy) -> None:
    assert deaf(Context(3)) == (3, {})


def test_policy_returns_what_the_scheduler_said(deaf: SnapshotPolicy) -> None:
    deaf.target = Target(0, False, time.monotonic())

    assert deaf(Context(3)) == (0, {})


def test_policy_holds_when_the_scheduler_is_silent(deaf: SnapshotPolicy) -> None:
    deaf.target = Target(0, False, time.monotonic() - STALE_S - 0.1)

    assert deaf(Context(3)) == (3, {})


def test_policy_only_goes_up_while_the_scheduler_has_just_started(deaf: SnapshotPolicy) -> None:
    deaf.target = Target(1, True, time.monotonic())

    assert (deaf(Context(3))[0], deaf(Context(0))[0]) == (3, 1)


@pytest.mark.parametrize(
    "message",
    [b"", b"{", b"[]", b"7", b'{"workers": -1, "at_least": false}', b'{"workers": 1}', b"\xff",
     b'{"workers": true, "at_least": false}', b'{"workers": 1e9, "at_least": false}'],
)  # fmt: skip
def test_policy_message_that_is_none_is_dropped(message: bytes) -> None:
    assert Target.parse(message, 0.0) is None


def test_policy_hears_the_scheduler_at_once_and_again_after_a_restart(tmp_path: Path) -> None:
    def say(url: str, policy: SnapshotPolicy, workers: int) -> bool:
        with Redis.from_url(url) as redis:
            redis.publish(CHANNEL, f'{{"workers": {workers}, "at_least": false}}')
        return policy(Context(9))[0] == workers

    with EmbeddedRedis(tmp_path) as redis:
        policy = SnapshotPolicy(redis.url)
        until(lambda: say(redis.url, policy, 2))
    with EmbeddedRedis(tmp_path) as redis:
        until(lambda: say(redis.url, policy, 5))


def test_policy_thread_ends_with_the_policy() -> None:
    before = threading.active_count()
    policy = SnapshotPolicy("unix:///nowhere/redis.sock")
    assert threading.active_count() == before + 1
    del policy
    gc.collect()

    until(lambda: threading.active_count() <= before)
