"""A worker's orders and requests, with real weights; only Ray is stood in for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import next_turn, until_true

from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import EvictionRefusedError, InvalidRequestError, ReplicaGoneError
from pilotlight_platform.schemas.cluster import AttachOrder, ReplicaReport
from pilotlight_platform.schemas.generation import GenerationRequest, SamplingParams
from pilotlight_platform.settings import Settings
from pilotlight_platform.worker import skeletons
from pilotlight_platform.worker import worker as module
from pilotlight_platform.worker.worker import Worker

_BOUND_S = 30.0
Start = Callable[..., Any]


class _Worker(Worker):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits the worker's, which `start` does; the garbage collector would not."""


@pytest.fixture(scope="module")
def baked(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("baked") / "tiny"
    directory.mkdir()
    bake_source(sample, directory, dtype="auto", report=lambda *_: None)
    return directory


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a worker whose requests wait for their orders for as long as the test may."""

    class Scheduler:
        class attend:
            @staticmethod
            async def remote(_info: object) -> None:
                await asyncio.Event().wait()

    context = SimpleNamespace(get_node_id=lambda: "node", replica_id=SimpleNamespace(unique_id="w"))
    monkeypatch.setattr(module.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(module, "_ORDER_GRACE_S", 2 * _BOUND_S)
    monkeypatch.setattr(module, "log_to", lambda *_: None)  # a handler for the process's life

    @asynccontextmanager
    async def started(**changes: Any) -> AsyncIterator[Worker]:
        settings = Settings(home=tmp_path, worker_threads=1, **changes)
        worker = _Worker(settings, Scheduler())  # type: ignore[arg-type]
        try:
            yield worker
        finally:
            await Worker.__del__(worker)

    return started


def request(revision: str, tokens: int) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return GenerationRequest("r", revision, sampling, prompt="def")


def order(baked: Path, model: str, *evict: str) -> AttachOrder:
    return AttachOrder(model, f"{model}-1", str(baked), 4, evict)


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, _BOUND_S)


def test_worker_serves_a_request_that_overtook_its_order(baked: Path, start: Start) -> None:
    async def run() -> str | None:
        async with start() as worker, aclosing(worker.generate(request("a-1", 1), True)) as early:
            first = asyncio.create_task(anext(early))
            await next_turn()
            await soon(worker.attach(order(baked, "a")))
            return (await soon(first)).finish_reason

    assert asyncio.run(run()) == "length"


def test_worker_sends_requests_back_whose_order_it_refuses(baked: Path, start: Start) -> None:
    async def run() -> None:
        async with start() as worker:
            await soon(worker.attach(order(baked, "a")))
            async with (
                aclosing(worker.generate(request("a-1", 1000), False)) as busy,
                aclosing(worker.generate(request("b-1", 1), True)) as early,
            ):
                await soon(anext(busy))
                first = asyncio.create_task(anext(early))
                await next_turn()
                with pytest.raises(EvictionRefusedError):
                    await soon(worker.attach(order(baked, "b", "a-1")))
                with pytest.raises(ReplicaGoneError):
                    await soon(first)

    asyncio.run(run())


def test_worker_bounds_the_keys_and_values_of_its_requests(baked: Path, start: Start) -> None:
    async def run() -> list[str]:
        async with start(worker_kv_cache_bytes=1) as worker:
            await soon(worker.attach(order(baked, "a")))
            async with (
                aclosing(worker.generate(request("a-1", 1000), False)) as older,
                aclosing(worker.generate(request("a-1", 1), False)) as younger,
            ):
                await soon(anext(older))
                waiting = asyncio.create_task(anext(younger))
                lanes = worker._engine._lanes
                await until_true(lambda: any(lane._held for lane in lanes.values()))
                await older.aclose()
                return [span.name for span in (await soon(waiting)).spans]

    assert "room" in asyncio.run(run())


def test_worker_reports_what_a_request_took_without_waiting_for_its_weights(
    baked: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    building_s = 0.5

    def slow(path: Path) -> Skeleton:
        time.sleep(building_s)
        return Skeleton.load(path)

    monkeypatch.setattr(skeletons, "Skeleton", SimpleNamespace(load=slow))

    async def run() -> tuple[ReplicaReport, float]:
        async with start() as worker:
            attaching = asyncio.create_task(worker.attach(order(baked, "a")))
            began_s = time.monotonic()
            async with aclosing(worker.generate(request("a-1", 1), True)) as answer:
                async for _ in answer:
                    pass
            took_s = time.monotonic() - began_s
            await soon(attaching)
            (replica,) = (await soon(worker.detach("none"))).replicas
            return replica, took_s

    replica, took_s = asyncio.run(run())

    assert replica.served == 1
    assert 0 < replica.served_s < took_s - building_s


def test_worker_does_not_count_a_refused_request_as_served(baked: Path, start: Start) -> None:
    async def run() -> ReplicaReport:
        async with start() as worker:
            await soon(worker.attach(order(baked, "a")))
            refused = replace(request("a-1", 1), prompt=None, prompt_tokens=(10**9,))
            with pytest.raises(InvalidRequestError):
                async for _ in worker.generate(refused, True):
                    pass
            (replica,) = (await soon(worker.detach("none"))).replicas
            return replica

    replica = asyncio.run(run())

    assert (replica.served, replica.served_s, replica.ongoing) == (0, 0.0, 0)
