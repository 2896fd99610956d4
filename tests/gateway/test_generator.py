"""Generator: what a request's timeline says when its first replica has gone."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from support.records import model_record

from pilotlight_platform.errors import ReplicaGoneError
from pilotlight_platform.gateway.admission import Admission
from pilotlight_platform.gateway.generator import Generation, Generator
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
)

RECORD = model_record(cold_start_timeout_s=0.5)


class Workers:
    """Answer with one token, but for those that have *gone*."""

    def __init__(self, *gone: str) -> None:
        self._gone = gone

    async def generate(
        self, worker_id: str, request: GenerationRequest, *, expected: bool
    ) -> AsyncGenerator[GenerationChunk]:
        if worker_id in self._gone:
            raise ReplicaGoneError("detached")
        yield GenerationChunk("a", 1, prompt_tokens=1, finish_reason="length")


def started(
    *routed: RouteReplica,
    placed: RouteReplica,
    gone: tuple[str, ...] = (),
    log: TimelineLog | None = None,
    workers: tuple[str, ...] = ("w1", "w2"),
) -> Generation:
    """A generation where *routed* is known at first, and *placed* where the scheduler is asked."""

    async def place(name: str, queued: int, running: int) -> Route:
        return Route(RECORD, (placed,))

    async def start() -> Generation:
        admission = Admission(place)
        admission.update(RoutingTable(1, {"m": Route(RECORD, routed)}, workers))
        generator = Generator(admission, Workers(*gone), log or TimelineLog(10))  # type: ignore[arg-type]
        request = GenerationRequest("r", "", SamplingParams(), prompt="a")
        async with asyncio.timeout(10):
            generation = await generator.start("m", request, endpoint="/", at_s=time.time())
            await generation.close()
        return generation

    return asyncio.run(start())


def test_generation_on_a_ready_replica_is_warm() -> None:
    ready = RouteReplica("w1", True)

    assert not started(ready, placed=ready).timeline.cold


def test_generation_without_a_ready_replica_is_cold() -> None:
    assert started(placed=RouteReplica("w1", False)).timeline.cold


def test_generation_whose_only_replica_has_gone_is_cold() -> None:
    attaching = RouteReplica("w2", False)

    timeline = started(RouteReplica("w1", True), placed=attaching, gone=("w1",)).timeline

    assert (timeline.cold, timeline.attempts) == (True, 2)


def test_generation_whose_second_attempt_finds_a_ready_replica_stays_cold() -> None:
    assert started(
        RouteReplica("w1", False), placed=RouteReplica("w2", True), gone=("w1",)
    ).timeline.cold


def test_generation_that_fails_says_that_it_was_cold() -> None:
    log = TimelineLog(10)
    attaching = RouteReplica("w1", False)
    with pytest.raises(ReplicaGoneError):
        started(attaching, placed=attaching, gone=("w1",), log=log)

    failed = log.get("r")
    assert failed is not None
    assert (failed.cold, failed.error) == (True, "detached")


def test_cold_generation_tells_how_long_it_waited_to_be_placed() -> None:
    spans = started(placed=RouteReplica("w1", False)).timeline.spans

    assert [span.name for span in spans] == ["admit", "place"]


def test_generation_tells_that_its_first_attempt_found_no_worker() -> None:
    spans = started(placed=RouteReplica("w1", False), workers=()).timeline.spans

    assert [span.name for span in spans] == ["admit", "start_worker"]
