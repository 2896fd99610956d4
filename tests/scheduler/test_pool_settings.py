"""Bounds of the pool, changed while the platform runs."""

import asyncio
import json

import pytest
from support.waiting import until_true

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.errors import PoolUnchangeableError, StoreError
from pilotlight_platform.scheduler import pool_settings
from pilotlight_platform.scheduler.pool_settings import PoolSettings, saved_pool
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.settings import Settings

STARTED = PoolConfig(min_workers=0, max_workers=4)


class Kept:
    """Where settings are written, and who is told of them."""

    def __init__(self, **settings: object) -> None:
        self.saved: bytes | None = None
        self.changed: list[PoolConfig] = []
        values = Settings.model_validate({"pool": STARTED, **settings})
        self.pool = PoolSettings(
            values, values.pool_config, "life", self.write, Tasks(), self.changed.append
        )

    async def write(self, saved: bytes) -> None:
        self.saved = saved

    def configure(self, **config: object) -> None:
        asyncio.run(self.pool.configure(PoolConfig.model_validate(config)))


def test_pool_settings_hold_at_once_and_are_saved() -> None:
    kept = Kept()
    kept.configure(min_workers=1, max_workers=2)
    wanted = PoolConfig(min_workers=1, max_workers=2)

    assert kept.pool.config == wanted
    assert kept.changed == [wanted]
    assert saved_pool(kept.saved, "life") == wanted


def test_pool_settings_of_another_start_are_not_taken() -> None:
    kept = Kept()
    kept.configure(min_workers=1, max_workers=2)

    assert saved_pool(kept.saved, "another life") is None
    assert saved_pool(None, "life") is None


@pytest.mark.parametrize(
    "saved", [b"", b"{", json.dumps({"life": "life", "pool": {"max_workers": -1}}).encode()]
)
def test_pool_settings_that_are_damaged_are_not_taken(saved: bytes) -> None:
    assert saved_pool(saved, "life") is None


def test_pool_settings_beyond_the_cores_are_refused() -> None:
    kept = Kept()
    with pytest.raises(PoolUnchangeableError, match="5 is above the 4"):
        kept.configure(max_workers=5)

    assert (kept.pool.config, kept.changed, kept.saved) == (STARTED, [], None)


def test_pool_settings_of_a_joined_cluster_may_go_beyond_what_it_started_with() -> None:
    kept = Kept(ray_address="127.0.0.1:6379")
    kept.configure(max_workers=50)

    assert kept.pool.config.max_workers == 50


def test_pool_settings_of_a_fixed_pool_are_refused() -> None:
    kept = Kept(pool=None, workers=3)
    with pytest.raises(PoolUnchangeableError, match="fixed pool of 3 workers"):
        kept.configure(max_workers=2)


def test_pool_settings_that_the_store_does_not_take_change_nothing() -> None:
    kept = Kept()

    async def fail(saved: bytes) -> None:
        raise StoreError("the store does not answer")

    settings = Settings(pool=STARTED)
    kept.pool = PoolSettings(settings, STARTED, "life", fail, Tasks(), kept.changed.append)
    with pytest.raises(StoreError):
        kept.configure(max_workers=2)

    assert (kept.pool.config, kept.changed) == (STARTED, [])


def test_pool_settings_written_without_an_answer_are_undone_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_settings, "_SETTLE_MIN_S", 0.01)
    kept = Kept()
    writes = 0

    async def late(saved: bytes) -> None:
        nonlocal writes
        writes += 1
        kept.saved = saved
        if writes == 1:
            raise StoreError("no answer in time")

    async def run() -> None:
        settings = Settings(pool=STARTED)
        pool = PoolSettings(settings, STARTED, "life", late, Tasks(), kept.changed.append)
        with pytest.raises(StoreError):
            await pool.configure(PoolConfig(min_workers=0, max_workers=2))
        assert saved_pool(kept.saved, "life") != STARTED
        await until_true(lambda: saved_pool(kept.saved, "life") == STARTED)

    asyncio.run(run())

    assert writes == 2


def test_pool_settings_are_whole_when_who_set_them_goes_away() -> None:
    kept = Kept()

    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(saved: bytes) -> None:
            begun.set()
            await go_on.wait()
            kept.saved = saved

        settings = Settings(pool=STARTED)
        pool = PoolSettings(settings, STARTED, "life", slow, Tasks(), kept.changed.append)
        wanted = PoolConfig(min_workers=0, max_workers=2)
        asking = asyncio.create_task(pool.configure(wanted))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        await until_true(lambda: pool.config == wanted)

    asyncio.run(run())

    assert saved_pool(kept.saved, "life") == kept.changed[-1]
