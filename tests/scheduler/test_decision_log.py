"""Decisions and their reasons, kept: a real Redis, and a store that is away."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from pilotlight_autoscaler import Attach, Decision, Detach, PoolTarget, Reason, Rule, Unplaced
from pilotlight_platform.errors import StoreError
from pilotlight_platform.scheduler.decision_log import DecisionLog
from pilotlight_platform.schemas.decision import DecisionRecord
from pilotlight_platform.store.embedded import EmbeddedRedis
from pilotlight_platform.store.redis_store import MAX_DECISIONS, RedisStore


def detach(text: str = "idle for 60 s") -> Decision:
    reason = Reason("a", Rule.IDLE, text, (("idle_s", 60.0),))
    return Decision(detach=(Detach("a", "a-1", "w", reason),))


class Away:
    """A store that takes nothing until told to."""

    def __init__(self) -> None:
        self.rows: dict[str, list[bytes]] = {}
        self.is_away = True

    async def append(self, rows: Mapping[str, Sequence[bytes]]) -> None:
        if self.is_away:
            raise StoreError("the store does not answer")
        for name, each in rows.items():
            self.rows.setdefault(name, []).extend(each)

    async def fetch(self, name: str) -> list[bytes]:
        return self.rows.get(name, [])


def test_decision_log_tells_the_evicted_who_took_its_place() -> None:
    async def work() -> list[DecisionRecord]:
        store = Away()
        store.is_away = False
        log = DecisionLog(store.append, store.fetch)
        queue = Reason("a", Rule.FROM_ZERO, "1 queued: wants 1, has 0", (("queued", 1.0),))
        attach = Attach("a", "a-1", "w", ("b-1",), queue)
        log.note(Decision(attach=(attach,)), 10.0, [(attach, "b")])
        return await log.of("b", 0.0)

    (record,) = asyncio.run(work())

    assert (record.action, record.model, record.worker_id) == ("evict", "b", "w")
    assert record.reason == "made room for a: 1 queued: wants 1, has 0"


def test_decision_log_keeps_what_was_done_and_what_was_held_back() -> None:
    async def work() -> list[DecisionRecord]:
        store = Away()
        store.is_away = False
        log = DecisionLog(store.append, store.fetch)
        queue = Reason("a", Rule.FROM_ZERO, "1 queued: wants 1, has 0", (("queued", 1.0),))
        due = Reason("a", Rule.PREWARM, "a request is due")
        held = Reason("a", Rule.HOLDS, "would start one more above 5.6, saw 3")
        log.note(Decision(attach=(Attach("a", "a-1", "w", (), queue),)), 10.0)
        log.note(Decision(reasons=(held,)), 11.0)
        log.note(detach(), 70.0)
        log.note(Decision(attach=(Attach("a", "a-1", "w", (), due),)), 80.0)
        return await log.of("a", 11.0)

    records = asyncio.run(work())

    assert [(r.action, r.rule, r.worker_id) for r in records] == [
        ("hold", "holds", None),
        ("detach", "idle", "w"),
        ("prewarm", "prewarm", "w"),
    ]
    assert records[0].reason == "would start one more above 5.6, saw 3"
    assert records[1].inputs == {"idle_s": 60.0}


def test_decision_log_keeps_the_sizes_of_the_pool_apart_from_models() -> None:
    async def work() -> list[DecisionRecord]:
        store = Away()
        store.is_away = False
        log = DecisionLog(store.append, store.fetch)
        reason = Reason("", Rule.POOL, "1 in use + 1 spare", (("target", 2.0),))
        log.note(replace(detach(), pool=PoolTarget(2, (), reason)), 10.0)
        return await log.of("", 0.0)

    (record,) = asyncio.run(work())

    assert (record.action, record.rule, record.reason) == ("resize", "pool", "1 in use + 1 spare")
    assert record.inputs == {"target": 2.0}


def test_decision_log_tells_of_a_lack_of_room_once() -> None:
    async def work() -> list[DecisionRecord]:
        store = Away()
        store.is_away = False
        log = DecisionLog(store.append, store.fetch)
        for free in (3, 2):
            unplaced = Unplaced("a", f"needs 4 GB, at most {free} GB is free", permanent=False)
            log.note(Decision(unplaced=(unplaced,)), 10.0 + free)
        log.note(Decision(), 20.0)
        log.note(Decision(unplaced=(Unplaced("a", "there is no worker", permanent=False),)), 21.0)
        return await log.of("a", 0.0)

    assert [r.reason for r in asyncio.run(work())] == [
        "needs 4 GB, at most 3 GB is free",
        "there is no worker",
    ]


def test_decision_log_writes_what_it_could_not_write_before() -> None:
    store = Away()

    async def work() -> list[DecisionRecord]:
        log = DecisionLog(store.append, store.fetch)
        log.note(detach("first"), 1.0)
        with pytest.raises(StoreError):
            await log.flush()
        store.is_away = False
        log.note(detach("second"), 2.0)
        await log.flush()
        return await log.of("a", 0.0)

    assert [r.reason for r in asyncio.run(work())] == ["first", "second"]


def test_decisions_in_the_store_are_bounded_expire_and_go_with_their_model(tmp_path: Path) -> None:
    async def work(url: str) -> list[DecisionRecord]:
        store = RedisStore(url)
        log = DecisionLog(store.append_decisions, store.decisions)
        for n in range(MAX_DECISIONS + 50):
            log.note(detach(str(n)), float(n))
            if n % 100 == 0:
                await log.flush()
        kept = await log.of("a", 0.0)
        with Redis.from_url(url) as redis:
            assert 0 < redis.ttl("pilotlight:1:decisions:a") <= 7 * 86400
        await store.delete_model("a")
        assert await store.decisions("a") == []
        await store.close()
        return kept

    with EmbeddedRedis(tmp_path) as redis:
        kept = asyncio.run(work(redis.url))

    assert [r.reason for r in kept] == [str(n) for n in range(50, MAX_DECISIONS + 50)]
