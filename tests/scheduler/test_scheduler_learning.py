"""What the reports of workers teach the policy: the whole scheduler on a real store."""

import asyncio
import time

from support.records import model_record
from support.scheduler_bench import Start


def test_scheduler_learns_from_reports_how_long_requests_take(start: Start) -> None:
    async def run() -> float:
        async with start(model_record("a", idle_timeout_s=60)) as bench:
            await bench.join("w0")
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            bench.workers.all["w0"].serve("a-1", 1, 0.5, 1.5)
            view = bench.scheduler._told.autoscaler.view("a")
            await bench.until(lambda: view.service_s > 0)
            return view.service_s

    assert asyncio.run(run()) == 1.0


def test_scheduler_counts_a_request_that_no_report_has_shown_running(start: Start) -> None:
    async def run() -> int:
        async with start(model_record("a", idle_timeout_s=60)) as bench:
            await bench.join("w0")
            await bench.place("a")
            await bench.scheduler.place("g", "a", 0, 0)
            await bench.until(lambda: bench.holders("a") == ["w0"])
            learned = bench.scheduler._told.autoscaler.view("a").learned
            await bench.until(lambda: learned.idle_since_s is not None)
            for n in range(3):
                rests_s = learned.idle_since_s
                bench.workers.all["w0"].serve("a-1", 0, 0.001)
                await bench.until(lambda seen=n: learned.gaps.observed == seen + 1)
                await bench.until(lambda since_s=rests_s: (learned.idle_since_s or 0.0) > since_s)
            return learned.gaps.observed

    assert asyncio.run(run()) == 3


def test_scheduler_counts_those_who_join_a_cold_start_without_a_word(start: Start) -> None:
    async def run() -> float:
        async with start(model_record("a", nbytes=900_000_000)) as bench:
            await bench.join("w0")
            worker = bench.workers.all["w0"]
            worker.stalled = True
            bench.scheduler._told.rested("a", time.time() - 60.0)
            await bench.place("a")
            await bench.until(lambda: bench.holders("a") == ["w0"])
            burst = bench.scheduler._told.autoscaler.view("a").learned.burst
            alone = burst.waiting
            worker.serve("a-1", 1)  # the one that was placed
            worker.serve("a-1", 3)
            await bench.until(lambda: burst.waiting > 1.0)
            assert alone == 1.0
            return burst.waiting

    assert 1.0 < asyncio.run(run()) <= 3.0
