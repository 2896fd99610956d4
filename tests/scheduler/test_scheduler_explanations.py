"""Why the scheduler did what it did, in its own words: on a real store."""

import asyncio

from support.records import model_record
from support.scheduler_bench import Start

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.schemas.decision import Explanation


def test_scheduler_explains_an_eviction_to_the_model_that_had_to_go(start: Start) -> None:
    async def run() -> None:
        big = {"nbytes": 600_000_000}
        async with start(model_record("a", **big), model_record("b", **big)) as bench:
            await bench.join("w0")
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.scheduler.place("g", "a", 0, 0)
            await bench.place("b")
            await bench.until(lambda: bench.holders("b") == ["w0"])
            told = (await bench.scheduler.explain("a", 0.0)).decisions

        assert next(each.reason for each in told if each.action == "evict").startswith(
            "made room for b: "
        )

    asyncio.run(run())


def test_scheduler_explains_the_size_of_its_pool(start: Start) -> None:
    async def run() -> Explanation:
        async with start(model_record("a", idle_timeout_s=60)) as bench:
            await bench.join("w0")
            await bench.join("w1")
            await bench.place("a")
            await bench.place("a")
            await bench.scheduler.configure_pool(PoolConfig(min_workers=0, max_workers=3))
            await bench.until(lambda: bench.scheduler._keeper.want == 2)
            return await bench.scheduler.explain_pool(0.0)

    found = asyncio.run(run())

    assert found.decisions[-1].action == "resize"
    assert found.decisions[-1].inputs["target"] == 2
    assert found.now.reason.startswith("1 in use + 0 lacking + 1 spare = 2, within 0 to 3")
    assert "would be 3 with 1 more" in found.now.reason
