"""What a scheduler that starts finds in its store, written here or on another machine."""

import asyncio
from pathlib import Path

import pytest
from support.records import model_record
from support.scheduler_bench import POOL, Start

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.machine import machine_name
from pilotlight_platform.scheduler import scheduler as module
from pilotlight_platform.scheduler.scheduler import Scheduler
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.redis_store import RedisStore


def test_scheduler_that_restarts_keeps_the_pool_that_was_set(start: Start) -> None:
    set_to = PoolConfig(min_workers=1, max_workers=2)

    async def run() -> list[PoolConfig]:
        async with start() as bench:
            await bench.scheduler.configure_pool(set_to)
        found = []
        for another in ({}, {"life": "another"}):
            async with start(**another) as bench:
                found.append((await bench.scheduler.pool()).config)
        return found

    assert asyncio.run(run()) == [set_to, POOL]


def test_scheduler_warns_at_its_start_of_floors_that_do_not_fit(
    start: Start, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        store = RedisStore(redis_url)
        await store.put_model(model_record("a", min_replicas=4, max_replicas=4))
        await store.close()
        async with start() as bench:
            await bench.until(lambda: "floors_too_high" in caplog.text)

    asyncio.run(run())


def test_scheduler_foretells_again_when_it_starts_on_another_machine(
    start: Start, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> list[str]:
        async with start(model_record("a")) as bench:
            monkeypatch.setattr(module, "machine_name", lambda: "another, 2 cores")
            again = Scheduler(Settings(home=tmp_path, pool=POOL), redis_url, "another life")
            both = (bench.scheduler, again)
            return [each._cluster.model("a").record.foretold_on.machine for each in both]

    assert asyncio.run(run()) == [machine_name(), "another, 2 cores"]


def test_scheduler_forgets_the_times_of_another_machine_at_its_start(
    start: Start, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> list[float]:
        settings = Settings(home=tmp_path, pool=POOL)
        async with start(model_record("a")) as bench:
            bench.scheduler._told.served("a", "a-1", 1, 7.0)
            bench.scheduler._memory.changed()
            await bench.scheduler.save()
            same = Scheduler(settings, redis_url, "another life")
            monkeypatch.setattr(module, "machine_name", lambda: "another, 2 cores")
            other = Scheduler(settings, redis_url, "another life")
            return [(await each.scaling("a")).service_s for each in (same, other)]

    assert asyncio.run(run()) == [7.0, 0.0]
