"""What was learned, in the store: real Redis, and clocks that are told."""

import asyncio
import json
import logging
from pathlib import Path

import pytest
from support.records import model_record

from pilotlight_autoscaler import Autoscaler, PolicyState, Tier
from pilotlight_autoscaler.learned import Learned
from pilotlight_autoscaler.state import ColdStartsState, FirstTokensState
from pilotlight_platform.errors import StoreError
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.memory import Memory, read_state
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.store.embedded import EmbeddedRedis
from pilotlight_platform.store.redis_store import RedisStore, read_learned


def taught() -> Told:
    """A scheduler's policy that has seen a cold start and an idle gap of model a."""
    told = Told(Autoscaler())
    told.tell(Cluster({"a": model_record("a", nbytes=100)}), 1000.0)
    told.arrived("a", 1000.0, 1)
    told.cold_started("a", "a-1", Tier.HOST, 0.25)
    told.rested("a", 1010.0)
    told.arrived("a", 1100.0, 1)
    return told


def as_bytes(state: PolicyState) -> bytes:
    return json.dumps(state.to_json()).encode()


def test_memory_is_found_again_in_a_restarted_store(tmp_path: Path) -> None:
    told = taught()

    async def save(url: str) -> None:
        store = RedisStore(url)
        memory = Memory(told.autoscaler.state, store.put_learned)
        memory.changed()
        await memory.save()
        await store.close()

    with EmbeddedRedis(tmp_path) as redis:
        asyncio.run(save(redis.url))
    with EmbeddedRedis(tmp_path) as redis:
        state = read_state(read_learned(redis.url), 1200.0)

    assert state == told.autoscaler.state()
    assert state.models["a"].cold_starts.samples == {Tier.HOST: [0.25]}
    assert state.models["a"].gaps.observed == 1


def test_memory_that_was_restored_goes_on_counting_the_gap() -> None:
    first = taught()
    first.rested("a", 1110.0)
    second = Told(Autoscaler())
    second.restore(first.autoscaler.state())
    second.tell(Cluster({"a": model_record("a", nbytes=100)}), 1150.0)
    second.arrived("a", 1200.0, 1, warm=True)

    assert second.autoscaler.state().models["a"].gaps.observed == 2


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        (b"\x80abc", "codec"),
        (b"{", "Expecting"),
        (b'{"version": 3}', "version"),
        (b'{"version": 2, "models": []}', "models: Input should be"),
        (b'{"version": 2, "decided_s": -1}', "decided_s: Input should be"),
        (b'{"version": 2, "decided_s": 5000.0}', "ahead of this machine's clock"),
    ],
)
def test_memory_that_cannot_be_used_is_refused_by_name(
    saved: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "pilotlight.scheduler"):
        assert read_state(saved, 1000.0) is None

    assert "learned_refused" in caplog.text
    assert why in caplog.text


def test_memory_that_is_damaged_in_places_is_kept_without_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    saved = {
        "version": 2,
        "models": {
            "a": {"burst": {"k": -1}, "service_s": 3.0, "future": 1, "gaps": {"counts": {"x": 1}}},
            "b": [],
            "c": {"service_s": 4.0},
        },
        "pool": {"target": -1},
    }
    with caplog.at_level(logging.ERROR, "pilotlight.scheduler"):
        state = read_state(json.dumps(saved).encode(), 1000.0)

    assert state is not None
    assert {name: each.service_s for name, each in state.models.items()} == {"a": 3.0, "c": 4.0}
    assert (state.models["a"].burst.k, state.pool.target) == (1.0, None)
    (line,) = caplog.messages
    assert line.startswith("learned_partly lost=5 first=models.a.gaps.counts.x")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("count", [10**400, -(10**400)])
def test_memory_with_a_count_beyond_all_numbers_is_kept_without_it(
    version: int, count: int
) -> None:
    gaps = {"observed": 1, "counts": {"5": count}}
    saved = {"version": version, "models": {"a": {"gaps": gaps, "service_s": 3.0}}}
    state = read_state(json.dumps(saved).encode(), 1000.0)

    assert state is not None
    assert (state.models["a"].service_s, state.models["a"].gaps.observed) == (3.0, 0)


@pytest.mark.parametrize("version", [1, 2])
def test_memory_with_means_of_spans_is_read_as_it_was_meant(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = {"revision_id": "a-1", "tiers": {"disk": [3, [0.5, 0.7], {"prefill": 0.25}]}}
    saved = {"version": version, "models": {"a": {"first_tokens": tokens, "service_s": 3.0}}}
    with caplog.at_level(logging.ERROR, "pilotlight.scheduler"):
        state = read_state(json.dumps(saved).encode(), 1000.0)

    assert state is not None
    assert not caplog.messages
    seen = Learned.load_from(state.models["a"]).first_tokens.by_tier()[Tier.DISK]
    assert (seen.count, dict(seen.spans)) == (3, {"prefill": 0.25})
    assert state.models["a"].service_s == 3.0


def test_memory_without_a_saved_state_begins_anew() -> None:
    assert read_state(None, 0.0) is None
    assert read_state(b"{}", 0.0) == PolicyState()


def test_memory_saves_many_changes_once_and_the_newest() -> None:
    written: list[bytes] = []
    told = taught()

    async def change() -> None:
        done = asyncio.Event()

        async def write(saved: bytes) -> None:
            written.append(saved)
            done.set()

        memory = Memory(told.autoscaler.state, write, after_s=0.05)
        for n in range(20):
            told.cold_started("a", "a-1", Tier.DISK, float(n))
            memory.changed()
        async with asyncio.timeout(5):
            await done.wait()
        await memory.save()  # nothing new

    asyncio.run(change())

    assert written == [as_bytes(told.autoscaler.state())]


def test_memory_that_was_not_taken_is_written_again() -> None:
    written: list[bytes] = []
    refusals = [StoreError("the store does not answer"), None]

    async def change() -> None:
        done = asyncio.Event()

        async def write(saved: bytes) -> None:
            refusal = refusals.pop(0)
            if refusal is not None:
                raise refusal
            written.append(saved)
            done.set()

        memory = Memory(taught().autoscaler.state, write, after_s=0.01)
        memory.changed()
        async with asyncio.timeout(5):
            await done.wait()

    asyncio.run(change())

    assert len(written) == 1


def test_memory_of_version_1_is_read_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    old = b'{"version": 1, "models": {"a": {"gaps": {"observed": 1, "counts": {"5": 1.0}}}}}'
    with caplog.at_level(logging.WARNING, "pilotlight.scheduler"):
        state = read_state(old, 1000.0)

    assert state is not None
    assert state.models["a"].gaps.counts == {9: 0.5, 10: 0.5}
    assert "learned_upgraded version=1" in caplog.text


def test_memory_of_a_version_that_named_no_machine_keeps_its_times() -> None:
    state = read_state(as_bytes(taught().autoscaler.state()), 1200.0, "new, 8 cores")

    assert state is not None
    assert state.models["a"].cold_starts.samples == {Tier.HOST: [0.25]}


def test_memory_of_another_machine_forgets_its_times(caplog: pytest.LogCaptureFixture) -> None:
    written: list[bytes] = []
    told = taught()
    told.served("a", "a-1", 1, 3.0)
    told.autoscaler.answered_cold("a", "a-1", Tier.HOST, 0.5, {"prefill": 0.25})

    async def save() -> None:
        async def write(saved: bytes) -> None:
            written.append(saved)

        memory = Memory(told.autoscaler.state, write, machine="old, 2 cores")
        memory.changed()
        await memory.save()

    asyncio.run(save())
    same = read_state(written[0], 1200.0, "old, 2 cores")
    with caplog.at_level(logging.WARNING, "pilotlight.scheduler"):
        other = read_state(written[0], 1200.0, "new, 8 cores")

    assert same is not None
    assert other is not None
    assert same == told.autoscaler.state()
    before, after = same.models["a"], other.models["a"]
    assert (before.service_s, before.first_tokens.revision_id) == (3.0, "a-1")
    assert before.cold_starts.samples == {Tier.HOST: [0.25]}
    assert (after.service_s, after.first_tokens, after.cold_starts) == (
        0.0,
        FirstTokensState(),
        ColdStartsState(),
    )
    assert other.models["a"].gaps.observed == 1
    assert caplog.text.count("learned_partly") == 1
