"""A routing table on its way to a gateway: only what has changed travels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from support.records import model_record
from support.waiting import next_turn

from pilotlight_autoscaler import Unplaced
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.table import Table
from pilotlight_platform.scheduler_client import SchedulerClient
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    Route,
    RouteReplica,
    RoutingChange,
    RoutingTable,
    WorkerInfo,
)

NONE = RoutingTable(-1)
WORKER = WorkerInfo("w", "node", 1, 1, 1000, 4)
A, B, C, D = (Route(model_record(name, nbytes=100)) for name in "abcd")
READY = Route(B.record, (RouteReplica("w", True),))

BEFORE = RoutingTable(1, {"a": A, "b": B, "d": D})
AFTER = RoutingTable(2, {"b": READY, "c": C, "d": D}, (WORKER,))


def test_change_holds_only_what_differs() -> None:
    assert BEFORE.since(NONE) == RoutingChange(1, BEFORE.routes, (), ())
    assert AFTER.since(BEFORE) == RoutingChange(2, {"b": READY, "c": C}, ("a",), (WORKER,))
    same = RoutingTable(3, dict(AFTER.routes), AFTER.workers)
    assert same.since(AFTER) == RoutingChange(3, {}, (), (WORKER,))


def test_change_leads_to_the_newer_table_and_leaves_the_older_one() -> None:
    seen = NONE.changed(BEFORE.since(NONE))
    newer = seen.changed(AFTER.since(BEFORE))

    assert seen == BEFORE
    assert newer == AFTER


def test_client_gives_whole_tables_that_edits_of_earlier_ones_do_not_reach() -> None:
    async def run() -> list[RoutingTable]:
        found = []
        async for table in SchedulerClient(Handle()).watch():  # type: ignore[arg-type]
            found.append(RoutingTable(table.version, dict(table.routes), table.workers))
            table.routes.pop("d")  # a gateway forgets a replica until a newer table tells of it
        return found

    assert asyncio.run(run()) == [BEFORE, AFTER]


class Handle:
    """A scheduler that tells of BEFORE, then of AFTER."""

    def options(self, **_options: Any) -> Handle:
        return self

    @property
    def watch(self) -> Handle:
        return self

    async def remote(self) -> AsyncIterator[RoutingChange]:
        yield BEFORE.since(NONE)
        yield AFTER.since(BEFORE)


def test_table_wakes_only_those_who_wait_for_the_model_that_has_changed() -> None:
    async def run() -> tuple[bool, bool]:
        cluster = Cluster({name: model_record(name, nbytes=100) for name in "ab"})
        table = Table(cluster)
        table.update(at_once=True)
        waiting = {name: asyncio.create_task(table.changed(name)) for name in "ab"}
        await next_turn()
        worker = cluster.join(WORKER)
        worker.order(AttachOrder("b", "b-1", "/checkpoint", 100), 1.0)
        table.update(at_once=True)
        await asyncio.wait_for(waiting["b"], 10)
        early = waiting["a"].done()
        cluster.unplaced = {"a": Unplaced("a", "larger than any worker", permanent=True)}
        table.update(at_once=True)
        await asyncio.wait_for(waiting["a"], 10)
        return early, waiting["a"].done()

    assert asyncio.run(run()) == (False, True)
