"""The whole scheduler on a real store, which all tests of a module share."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.own_workers import OwnWorkers
from support.scheduler_bench import POOL, Bench, Start

from pilotlight_platform.running import running_workers
from pilotlight_platform.scheduler import scheduler as module
from pilotlight_platform.scheduler.scheduler import Scheduler
from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.embedded import EmbeddedRedis
from pilotlight_platform.store.redis_store import RedisStore

# The world compares decisions for the tests that step it: a failure is to show what differs.
pytest.register_assert_rewrite("support.told_world")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url


@pytest.fixture
def start(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    workers = OwnWorkers("w0", "w1", "w2")
    monkeypatch.setattr(module, "_workers", lambda: workers)
    monkeypatch.setattr(module.ray, "nodes", lambda: [])
    monkeypatch.setattr(module, "log_to", lambda directory, name: None)
    settings = Settings(home=tmp_path, pool=POOL)
    settings.create_directories()

    @asynccontextmanager
    async def begin(*records: ModelRecord, life: str = tmp_path.name) -> AsyncIterator[Bench]:
        running_workers.set(None)
        store = RedisStore(redis_url)
        monkeypatch.setattr(module, "RedisStore", lambda url: store)
        made = Bench(Scheduler(settings, redis_url, life), workers)
        for name in [each.record.spec.name for each in await made.scheduler.models()]:
            await made.scheduler.delete_model(name)
        for record in records:
            await made.scheduler.put_model(record)
        yield made
        for task in made.attending:
            task.cancel()
        await asyncio.gather(*made.attending, return_exceptions=True)
        await store.close()

    return begin
