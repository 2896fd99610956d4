"""Workers that come, die or are to stop: the whole scheduler on a real store."""

import asyncio

from support.records import model_record
from support.scheduler_bench import Start

from pilotlight_platform.running import running_workers


def test_scheduler_prepares_what_is_live_in_a_worker_that_comes(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a"), model_record("b")) as bench:
            await bench.join("w0")
            await bench.until(lambda: bench.workers.all["w0"].prepared == {"a-1", "b-1"})
            await bench.scheduler.delete_model("a")
            await bench.until(lambda: bench.workers.all["w0"].prepared == {"b-1"})

    asyncio.run(run())


def test_scheduler_routes_to_another_worker_when_one_dies(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a", idle_timeout_s=60)) as bench:
            await bench.join("w0")
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.join("w1")
            bench.workers.kill("w0")
            await bench.until(lambda: "w0" not in bench.scheduler._cluster.workers)
            assert await bench.place("a") == "w1"

    asyncio.run(run())


def test_scheduler_sends_nothing_new_to_a_worker_that_serve_takes_unforeseen(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a", idle_timeout_s=60)) as bench:
            await bench.join("w0")
            running_workers.set(frozenset({"w0", "w1"}))
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.scheduler.place("g", "a", 0, 1)
            bench.workers.all["w0"].serve("a-1", ongoing=1)
            await bench.join("w1")
            running_workers.set(frozenset({"w1"}))
            await bench.until(lambda: bench.scheduler._cluster.leaving == {"w0"})
            assert await bench.place("a") == "w1"
            await bench.until(lambda: bench.holders("a") == ["w0", "w1"])  # its stream goes on
            bench.workers.all["w0"].serve("a-1", ongoing=0)
            await bench.until(lambda: "w0" not in bench.scheduler._cluster.workers)

    asyncio.run(run())
