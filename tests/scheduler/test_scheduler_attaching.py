"""Where the scheduler attaches a model, and when: the whole scheduler on a real store."""

import asyncio
from dataclasses import replace

import pytest
from support.records import model_record
from support.scheduler_bench import Start

from pilotlight_platform.errors import AttachError
from pilotlight_platform.scheduler import orders


def test_scheduler_attaches_at_the_first_request_and_detaches_when_idle(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a", idle_timeout_s=0.3)) as bench:
            await bench.join("w0")
            assert await bench.place("a") == "w0"
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.until(lambda: bench.holders("a") == [])
            assert bench.workers.all["w0"].attached == ["a"]

    asyncio.run(run())


def test_scheduler_attaches_a_model_once_that_many_gateways_ask_for(start: Start) -> None:
    async def run() -> list[str]:
        async with start(model_record("a", max_replicas=3, target_ongoing_requests=8)) as bench:
            await bench.join("w0")
            await bench.join("w1")
            asked = (bench.scheduler.place(f"g{n}", "a", 1, 0) for n in range(8))
            routes = await asyncio.gather(*asked)
            await bench.until(lambda: bench.holders("a") != [])
            assert len({each.replicas for each in routes}) == 1
            return [name for w in bench.workers.all.values() for name in w.attached]

    assert asyncio.run(run()) == ["a"]


def test_scheduler_spreads_models_that_arrive_at_once(start: Start) -> None:
    async def run() -> list[str]:
        async with start(model_record("a"), model_record("b")) as bench:
            await bench.join("w0")
            await bench.join("w1")
            return await asyncio.gather(bench.place("a"), bench.place("b"))

    assert sorted(asyncio.run(run())) == ["w0", "w1"]


def test_scheduler_finds_weights_again_on_the_node_that_has_them(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a", idle_timeout_s=0.2)) as bench:
            await bench.join("w1", "n1")
            await bench.place("a")
            await bench.until(lambda: bench.workers.all["w1"].attached == ["a"])
            await bench.scheduler.place("g", "a", 0, 0)
            await bench.join("w0", "n0")  # the first of the empty ones, from now on
            await bench.until(lambda: bench.holders("a") == [])
            assert await bench.place("a") == "w1"

    asyncio.run(run())


def test_scheduler_starts_a_replica_of_a_new_revision_where_that_was_asked_for(
    start: Start,
) -> None:
    async def run() -> None:
        record = model_record("a", idle_timeout_s=0, prewarm={"on_deploy": True})
        async with start(model_record("b")) as bench:
            await bench.join("w0")
            await bench.scheduler.put_model(record)
            await bench.until(lambda: bench.workers.all["w0"].attached == ["a"])
            await bench.until(lambda: bench.holders("a") == [])
            await bench.scheduler.put_model(record)  # the same revision: it has been live before
            newer = record.revision.model_copy(update={"id": "a-2"})
            await bench.scheduler.put_model(record.model_copy(update={"revision": newer}))
            await bench.until(lambda: bench.workers.all["w0"].attached == ["a", "a"])

    asyncio.run(run())


def test_scheduler_says_why_a_model_cannot_be_attached(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a")) as bench:
            await bench.join("w0")
            bench.workers.all["w0"].broken = True
            asking = asyncio.gather(bench.place("a"), return_exceptions=True)
            await bench.until(lambda: bench.scheduler._cluster.model("a").failures > 0)
            await asking
            with pytest.raises(AttachError, match="it is broken"):
                await bench.place("a")

    asyncio.run(run())


def test_scheduler_decides_again_with_the_report_that_shows_why_an_order_was_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "_REFUSED_WAIT_S", 600.0)
    big = {"nbytes": 600_000_000, "idle_timeout_s": 60}

    async def run() -> None:
        async with start(model_record("a", **big), model_record("b", **big)) as bench:
            await bench.join("w0")
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.scheduler.place("g", "a", 0, 0)
            worker = bench.workers.all["w0"]
            idle = worker.replicas["a-1"]
            worker.replicas["a-1"] = replace(idle, ongoing=1, idle_since_s=None)
            await bench.place("b")  # ordered, and refused: the report is late
            ordered = bool(bench.scheduler._cluster.held("b"))
            worker.report()
            await bench.until(lambda: not bench.scheduler._cluster.held("b"))
            assert ordered
            assert bench.holders("a") == ["w0"]

    asyncio.run(run())
