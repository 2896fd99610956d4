"""A routing table on its way to a gateway: only what has changed travels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from support.records import model_record

from pilotlight_platform.scheduler_client import SchedulerClient
from pilotlight_platform.schemas.cluster import (
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
