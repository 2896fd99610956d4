"""Keys and values are bounded: the youngest request pauses, and answers as if it had not."""

from __future__ import annotations

import logging

import pytest

from pilotlight_platform.engine.cache_room import CacheRoom
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.errors import EngineError

TOKEN_NBYTES = 3 * 2 * 2 * 16 * 4  # of conftest's llama: layers, keys and values, heads, width
PROMPTS = [[5, 9, 44], [7] * 15, [100, 200, 300, 12], [42]]


@pytest.fixture
def small():
    """An engine with room for 60 tokens of the llama."""
    with Engine(threads=1, max_batch=4, cache_limit_bytes=60 * TOKEN_NBYTES) as engine:
        yield engine


@pytest.fixture
def paused(caplog):
    caplog.set_level(logging.INFO, "pilotlight_platform.engine.lane")
    return lambda: sum("cache_full" in record.message for record in caplog.records)


def test_requests_that_pause_answer_as_if_alone(attach, small, submit, paused):
    replica = attach("llama")
    sampled = {"max_tokens": 40, "ignore_eos": True, "temperature": 0.8, "seed": 4}
    alone = [submit(replica, prompt, **sampled).finish().tokens for prompt in PROMPTS]

    crowded = [submit(replica, prompt, to=small, **sampled) for prompt in PROMPTS]

    assert [answer.finish().tokens for answer in crowded] == alone
    assert paused() > 0


def test_requests_that_pause_without_a_shared_cache_answer_as_if_alone(attach, submit, paused):
    replica = attach("mistral")
    long = {"max_tokens": 40, "ignore_eos": True}
    alone = [submit(replica, prompt, **long).finish().tokens for prompt in PROMPTS]
    with Engine(1, 4, cache_limit_bytes=20 * TOKEN_NBYTES) as engine:
        crowded = [submit(replica, prompt, to=engine, **long) for prompt in PROMPTS]

        assert [answer.finish().tokens for answer in crowded] == alone
    assert paused() > 0


def test_oldest_request_is_never_paused(attach, small, submit):
    replica = attach("llama")
    order: list[int] = []

    def ended(number):
        def sink(chunk):
            if chunk.finish_reason is not None:
                order.append(number)

        return sink

    for number, prompt in enumerate(PROMPTS):
        submit(replica, prompt, to=small, max_tokens=50, ignore_eos=True, sink=ended(number))
    submit(replica, [1], to=small, max_tokens=50, ignore_eos=True).finish()

    assert order == [0, 1, 2, 3]


def test_request_that_needs_more_than_all_the_room_is_answered_alone(attach, submit, paused):
    replica = attach("llama")
    with Engine(1, 4, cache_limit_bytes=10 * TOKEN_NBYTES) as engine:
        answers = [
            submit(replica, [7] * 15, to=engine, max_tokens=30, ignore_eos=True) for _ in range(3)
        ]

        assert [answer.finish().count for answer in answers] == [30, 30, 30]


def test_room_is_that_of_all_models_of_a_worker(attach, small, submit, paused):
    llama, gpt2 = attach("llama"), attach("gpt2")
    long = {"max_tokens": 50, "ignore_eos": True}
    alone = [submit(replica, PROMPTS[0], **long).finish().tokens for replica in (llama, gpt2)]

    crowded = [submit(replica, PROMPTS[0], to=small, **long) for replica in (llama, gpt2)]

    assert [answer.finish().tokens for answer in crowded] == alone
    assert paused() > 0


def test_paused_request_can_be_cancelled(attach, small, submit, paused):
    replica = attach("llama")
    long = {"max_tokens": 100, "ignore_eos": True}
    oldest, youngest = (submit(replica, PROMPTS[0], to=small, **long) for _ in range(2))
    while not paused():
        oldest.next()

    youngest.ticket.cancel()

    assert oldest.finish().count == 100
    assert submit(replica, PROMPTS[0], to=small).finish()
    assert small.ongoing(replica) == 0


def test_paused_request_of_a_dropped_replica_fails(attach, small, submit, paused):
    replica = attach("llama")
    long = {"max_tokens": 100, "ignore_eos": True}
    oldest, youngest = (submit(replica, PROMPTS[0], to=small, **long) for _ in range(2))
    while not paused():
        oldest.next()

    small.drop(replica)

    for answer in (oldest, youngest):
        with pytest.raises(EngineError, match="dropped"):
            answer.finish()
    assert small.ongoing(replica) == 0


def test_room_is_free_again_after_a_replica_was_dropped(attach, small, submit):
    llama, gpt2 = attach("llama"), attach("gpt2")
    submit(llama, PROMPTS[0], to=small, max_tokens=100, ignore_eos=True).next()

    small.drop(llama)

    answers = [submit(gpt2, PROMPTS[0], to=small, max_tokens=4) for _ in range(3)]
    assert all(answer.finish() for answer in answers)


def test_room_without_a_limit_admits_everything() -> None:
    room = CacheRoom(None)
    room.note("lane", 1 << 60, None)

    assert room.admits(1, 1 << 60)
    assert not room.overfull


def test_room_admits_nobody_before_an_older_request() -> None:
    room = CacheRoom(100)
    room.note("lane", 10, 3)

    assert not room.admits(4, 1)
    assert room.admits(3, 1)
    assert room.admits(2, 1)


def test_room_admits_what_fits_with_headroom() -> None:
    room = CacheRoom(100)
    room.note("lane", 50, None)

    assert room.admits(1, 40)
    assert not room.admits(1, 41)


def test_room_admits_one_alone() -> None:
    room = CacheRoom(100)
    room.note("lane", 0, None)

    assert room.admits(1, 1000)


def test_room_of_a_lane_that_ended_is_free() -> None:
    room = CacheRoom(100)
    room.note("lane", 101, 0)
    room.forget("lane")

    assert not room.overfull
    assert room.admits(1, 90)
