"""Models and settings that do not fit the pool: the whole scheduler on a real store."""

import asyncio

import pytest
from support.records import model_record
from support.scheduler_bench import Start

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_platform.errors import DeployError, FloorsTooHighError


def test_scheduler_refuses_a_model_that_one_long_request_would_burst(start: Start) -> None:
    async def run() -> None:
        async with start() as bench:
            await bench.join("w0")  # on a machine with 10 GB
            await bench.scheduler.put_model(model_record("a", nbytes=10**9, cache_nbytes=9 * 10**9))
            with pytest.raises(DeployError, match=r"1\.0 GB of weights.* of 8 tokens take 9\.5 GB"):
                await bench.scheduler.put_model(
                    model_record("b", nbytes=10**9, cache_nbytes=95 * 10**8)
                )
            await bench.scheduler.put_model(
                model_record("c", nbytes=10**9, cache_nbytes=95 * 10**8, max_context_tokens=7)
            )
            assert set(bench.scheduler._cluster.models) == {"a", "c"}

    asyncio.run(run())


def test_scheduler_refuses_floors_that_do_not_fit_the_pool_together(start: Start) -> None:
    """Three workers at most, 1 GB each."""

    async def run() -> None:
        big = {"nbytes": 600_000_000, "max_replicas": 4}
        async with start(model_record("a", min_replicas=2, **big)) as bench:
            await bench.join("w0")
            with pytest.raises(FloorsTooHighError, match="together need 4 workers"):
                await bench.scheduler.put_model(model_record("b", min_replicas=2, **big))
            more = AutoscalingConfig(min_replicas=4, max_replicas=4)
            with pytest.raises(FloorsTooHighError, match="a: min_replicas keeps 4 replicas"):
                await bench.scheduler.configure("a", more)
            with pytest.raises(FloorsTooHighError, match="b: min_replicas keeps 4 replicas"):
                await bench.scheduler.check_floors("b", more)
            with pytest.raises(FloorsTooHighError, match="the pool has 1 worker at most"):
                await bench.scheduler.configure_pool(PoolConfig(min_workers=0, max_workers=1))
            models = await bench.scheduler.models()
            assert [each.record.spec.autoscaling.min_replicas for each in models] == [2]

    asyncio.run(run())


def test_scheduler_checks_floors_again_when_a_model_is_prepared(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with start() as bench:
            await bench.join("w0")

            async def shrink(worker_id: str, revision_id: str, path: str) -> None:
                await bench.scheduler.configure_pool(PoolConfig(min_workers=0, max_workers=1))

            monkeypatch.setattr(bench.workers, "prepare", shrink)
            with pytest.raises(FloorsTooHighError, match="a: min_replicas keeps 2 replicas"):
                await bench.scheduler.put_model(model_record("a", min_replicas=2, max_replicas=2))
            assert await bench.scheduler.models() == []

    asyncio.run(run())
