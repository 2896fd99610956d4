"""Admission: slots, the bounded queue, and what happens when waiting ends badly."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from support.records import model_record
from support.waiting import next_turn

from pilotlight_platform.errors import (
    AttachError,
    ColdStartTimeoutError,
    ModelNotFoundError,
    OverloadedError,
    QueueFullError,
)
from pilotlight_platform.gateway import admission as admission_module
from pilotlight_platform.gateway.admission import Admission
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.model import ModelRecord


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(bounded())


def record(**autoscaling: Any) -> ModelRecord:
    return model_record(**{"max_ongoing_requests": 2, **autoscaling})


class Scheduler:
    """Answers `place` with what the test has put into `replicas`; notes what it was told."""

    def __init__(self, known: ModelRecord) -> None:
        self.known = known
        self.replicas: tuple[RouteReplica, ...] = ()
        self.queued: list[int] = []
        self.running: list[int] = []
        self.called = asyncio.Event()
        self.error: AttachError | None = None
        self.settles = False

    async def place(self, name: str, queued: int, running: int) -> Route:
        self.queued.append(queued)
        self.running.append(running)
        self.called.set()
        if self.error is not None:
            raise self.error
        if queued and not self.replicas:
            await asyncio.sleep(0.01)  # the real one holds the call for up to a second
        return Route(self.known, self.replicas, settled=self.settles)


def build(**autoscaling: Any) -> tuple[Admission, Scheduler]:
    scheduler = Scheduler(record(**autoscaling))
    admission = Admission(scheduler.place)
    admission.update(table(scheduler.known, version=1))
    return admission, scheduler


def table(known: ModelRecord, *workers: str, version: int) -> RoutingTable:
    replicas = tuple(RouteReplica(worker, True) for worker in workers)
    return RoutingTable(version, {"m": Route(known, replicas)})


def test_admission_ready_replica_needs_no_call() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        admission.update(table(scheduler.known, "w1", version=2))

        slot = await admission.acquire("m")

        assert (slot.worker_id, slot.ready, scheduler.queued) == ("w1", True, [])

    run(scenario())


def test_admission_cold_model_asks_the_scheduler_at_once() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        scheduler.replicas = (RouteReplica("w1", False),)

        slot = await admission.acquire("m")

        assert (slot.worker_id, slot.ready) == ("w1", False)
        assert scheduler.queued[0] == 1

    run(scenario())


def test_admission_many_cold_requests_share_one_placing() -> None:
    async def scenario() -> None:
        admission, scheduler = build(max_ongoing_requests=8)
        waiting = [asyncio.create_task(admission.acquire("m")) for _ in range(8)]
        await scheduler.called.wait()
        scheduler.replicas = (RouteReplica("w1", False),)
        slots = await asyncio.gather(*waiting)

        assert {slot.worker_id for slot in slots} == {"w1"}
        assert max(scheduler.queued) == 8

    run(scenario())


def test_admission_spreads_over_the_least_loaded_replica() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        admission.update(table(scheduler.known, "w1", "w2", version=2))

        slots = [await admission.acquire("m") for _ in range(4)]

        assert sorted(slot.worker_id for slot in slots) == ["w1", "w1", "w2", "w2"]

    run(scenario())


def test_admission_released_slot_goes_to_the_oldest_waiter() -> None:
    async def scenario() -> None:
        admission, scheduler = build(max_ongoing_requests=1)
        scheduler.replicas = (RouteReplica("w1", True),)
        admission.update(table(scheduler.known, "w1", version=2))
        first = await admission.acquire("m")
        second = asyncio.create_task(admission.acquire("m"))
        await scheduler.called.wait()
        third = asyncio.create_task(admission.acquire("m"))
        await next_turn()
        admission.release("m", first)
        await second

        assert not third.done()
        admission.release("m", second.result())
        await third

    run(scenario())


def test_admission_full_queue_refuses_the_newest() -> None:
    async def scenario() -> None:
        admission, scheduler = build(max_queued_requests=1)
        oldest = asyncio.create_task(admission.acquire("m"))
        await scheduler.called.wait()

        with pytest.raises(QueueFullError, match="max_queued_requests"):
            await admission.acquire("m")

        assert not oldest.done()
        oldest.cancel()

    run(scenario())


def test_admission_waits_no_longer_than_the_cold_start_timeout() -> None:
    async def scenario() -> None:
        admission, _ = build(cold_start_timeout_s=0.05)

        with pytest.raises(ColdStartTimeoutError, match="no worker is up yet"):
            await admission.acquire("m")

        assert admission.queued("m") == 0

    run(scenario())


def test_admission_placing_error_reaches_every_waiter() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        scheduler.error = AttachError("the checkpoint is gone")
        waiting = [asyncio.create_task(admission.acquire("m")) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

        assert [str(outcome) for outcome in outcomes] == ["the checkpoint is gone"] * 3

    run(scenario())


def test_admission_cancelled_waiter_leaves_no_slot_taken() -> None:
    async def scenario() -> None:
        admission, scheduler = build(max_ongoing_requests=1)
        waiter = asyncio.create_task(admission.acquire("m"))
        await scheduler.called.wait()
        # Served and cancelled in the same turn of the loop.
        admission.update(table(scheduler.known, "w1", version=2))
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)

        slot = await admission.acquire("m")

        assert slot.worker_id == "w1"

    run(scenario())


def test_admission_demand_is_withdrawn_when_nothing_waits() -> None:
    async def scenario() -> None:
        admission, scheduler = build(cold_start_timeout_s=0.05)
        with pytest.raises(ColdStartTimeoutError):
            await admission.acquire("m")
        while scheduler.queued[-1] != 0:
            scheduler.called.clear()
            await scheduler.called.wait()

        assert scheduler.queued[-1] == 0

    run(scenario())


@pytest.mark.parametrize("workers", [(), ("w1",)])
def test_admission_says_again_that_requests_wait(
    monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    monkeypatch.setattr(admission_module, "_REASSERT_S", 0.01)

    async def scenario() -> None:
        admission, scheduler = build(max_ongoing_requests=1)
        if workers:  # one that is taken
            scheduler.replicas = (RouteReplica("w1", True),)
            admission.update(table(scheduler.known, *workers, version=2))
            await admission.acquire("m")
        waiting = asyncio.create_task(admission.acquire("m"))
        while scheduler.queued.count(1) < 5:
            scheduler.called.clear()
            await scheduler.called.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert set(scheduler.queued) == {1}

    run(scenario())


def test_admission_demand_that_the_scheduler_settled_is_not_withdrawn() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        scheduler.replicas = (RouteReplica("w1", False),)
        scheduler.settles = True
        slot = await admission.acquire("m")
        admission.release("m", slot)
        await next_turn(10)  # the placing task's last ones

        assert scheduler.queued == [1]

    run(scenario())


def test_admission_tells_which_slots_are_taken_already() -> None:
    async def scenario() -> None:
        admission, scheduler = build(cold_start_timeout_s=0.05)
        scheduler.replicas = (RouteReplica("w1", False),)
        for _ in range(2):  # as many as there are slots
            await admission.acquire("m")
        with pytest.raises(ColdStartTimeoutError):
            await admission.acquire("m")

        assert scheduler.running[0] == 0
        assert 2 in scheduler.running

    run(scenario())


def test_admission_unknown_model_is_named() -> None:
    async def scenario() -> None:
        admission, _ = build()

        with pytest.raises(ModelNotFoundError, match="'other'"):
            await admission.acquire("other")

    run(scenario())


def test_admission_without_a_table_does_not_say_that_a_model_is_missing() -> None:
    async def test() -> None:
        admission = Admission(Scheduler(record()).place)
        with pytest.raises(OverloadedError, match="not reached"):
            admission.route("m")

        admission.update(RoutingTable(0))
        with pytest.raises(ModelNotFoundError):
            admission.route("m")

    run(test())


def test_admission_older_table_is_ignored() -> None:
    async def scenario() -> None:
        admission, scheduler = build()
        admission.update(table(scheduler.known, "w1", version=5))
        admission.update(table(scheduler.known, version=4))

        assert [r.worker_id for r in admission.route("m").replicas] == ["w1"]

    run(scenario())
