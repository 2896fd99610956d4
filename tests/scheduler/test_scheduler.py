"""The whole scheduler on a real store, with workers of its own process: no Ray."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.own_workers import OwnWorkers
from support.records import model_record
from support.waiting import until_true

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig, Tier
from pilotlight_platform.errors import AttachError, DeployError, FloorsTooHighError
from pilotlight_platform.links import Link, Links, links_path
from pilotlight_platform.machine import machine_name
from pilotlight_platform.running import running_workers
from pilotlight_platform.scheduler import orders
from pilotlight_platform.scheduler import scheduler as module
from pilotlight_platform.scheduler.scheduler import Scheduler
from pilotlight_platform.schemas.cluster import WorkerInfo
from pilotlight_platform.schemas.decision import Explanation
from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.embedded import EmbeddedRedis
from pilotlight_platform.store.redis_store import RedisStore


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url


POOL = PoolConfig(min_workers=2, max_workers=3)  # what joins stays


class Bench:
    """A scheduler and its workers, within one event loop."""

    def __init__(self, scheduler: Scheduler, workers: OwnWorkers) -> None:
        self.scheduler = scheduler
        self.workers = workers
        self.attending: list[asyncio.Task[None]] = []

    async def join(self, worker_id: str, node_id: str = "n") -> None:
        info = WorkerInfo(worker_id, node_id, 1, 1, 10**9, 2, 10**10)
        self.attending.append(asyncio.create_task(self.scheduler.attend(info)))
        await self.until(lambda: worker_id in self.scheduler._cluster.workers)

    async def place(self, name: str, queued: int = 1) -> str:
        """The first worker of the route."""
        route = await self.scheduler.place("g", name, queued, 0)
        return route.replicas[0].worker_id

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_true(condition)

    def holders(self, name: str) -> list[str]:
        return [
            worker_id
            for worker_id, worker in self.workers.all.items()
            if any(each.model == name for each in worker.replicas.values())
        ]


Start = Callable[..., AbstractAsyncContextManager[Bench]]


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


def test_scheduler_attaches_at_the_first_request_and_detaches_when_idle(start: Start) -> None:
    async def run() -> None:
        async with start(model_record("a", idle_timeout_s=0.3)) as bench:
            await bench.join("w0")
            assert await bench.place("a") == "w0"
            await bench.until(lambda: bench.holders("a") == ["w0"])
            await bench.until(lambda: bench.holders("a") == [])
            assert bench.workers.all["w0"].attached == ["a"]

    asyncio.run(run())


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


def test_scheduler_spreads_models_that_arrive_at_once(start: Start) -> None:
    async def run() -> list[str]:
        async with start(model_record("a"), model_record("b")) as bench:
            await bench.join("w0")
            await bench.join("w1")
            return await asyncio.gather(bench.place("a"), bench.place("b"))

    assert sorted(asyncio.run(run())) == ["w0", "w1"]


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


def test_scheduler_that_is_told_other_settings_keeps_what_was_foretold_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[dict[Tier, float], int]:
        async with start(model_record("a")) as bench:
            model = bench.scheduler._cluster.model("a")
            store = bench.scheduler._models._store
            put = store.put_model

            async def foretold_meanwhile(record: ModelRecord) -> None:
                await put(record)
                found = {"predicted_load_s": {Tier.DISK: 99.0}}
                model.configure(model.record.model_copy(update=found))

            monkeypatch.setattr(store, "put_model", foretold_meanwhile)
            await bench.scheduler.configure("a", AutoscalingConfig(max_replicas=2))
            record = model.record
            return record.predicted_load_s, record.spec.autoscaling.max_replicas

    assert asyncio.run(run()) == ({Tier.DISK: 99.0}, 2)


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


def test_scheduler_foretells_the_first_cold_start_of_what_goes_live(start: Start) -> None:
    async def run() -> float:
        async with start(model_record("a", nbytes=8 * 10**9)) as bench:
            return (await bench.scheduler.scaling("a")).cold_start_s

    assert 1.5 < asyncio.run(run()) < 60.0  # 8 GB from a disk, not the second of an unknown model


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


def test_scheduler_foretells_again_when_a_worker_comes_and_links_were_measured(
    start: Start, tmp_path: Path
) -> None:
    async def run() -> None:
        async with start(model_record("a", nbytes=8 * 10**9)) as bench:
            links = Links(0.0, Link(5e9, 1, "copy"), Link(4e9, 1, "O_DIRECT"))
            links_path(tmp_path).write_text(json.dumps(asdict(links)))
            await bench.join("w0")
            model = bench.scheduler._cluster.model("a")
            await bench.until(lambda: model.record.foretold_on.bytes_per_s.get(Tier.DISK) == 4e9)

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
