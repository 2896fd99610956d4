"""The routing table that gateways follow, made anew from the scheduler's picture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pilotlight_platform.latest import Latest
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.schemas.cluster import RoutingTable

_DELAY_S = 0.2


class Table:
    """Lives on the scheduler's event loop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._latest = Latest(cluster.routing_table(0))
        self._published: object = None
        self._publishing: asyncio.TimerHandle | None = None
        self._waiting: dict[str, asyncio.Event] = {}  # for another standing of a model

    @property
    def version(self) -> int:
        return self._latest.value.version

    def values(self) -> AsyncIterator[RoutingTable]:
        """The table now, then after each change."""
        return self._latest.values()

    async def changed(self, name: str) -> None:
        """Wait until replicas of the model may have come or gone, or it was given up.

        One event per model: with many that wait, an event wakes only those that it is about.
        """
        await self._waiting.setdefault(name, asyncio.Event()).wait()

    def update(self, *, at_once: bool) -> None:
        """Publish what has changed: now, or a little later."""
        standings = self._cluster.changes.standings
        while standings:
            waiting = self._waiting.pop(standings.pop(), None)
            if waiting is not None:
                waiting.set()
        if at_once:
            self._publish(force=True)
        elif self._publishing is None:
            # Soon, not at once: who waits for a replica has it from `place`, and what is sent
            # meanwhile runs on the cores that compute the first token.
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(_DELAY_S, self._publish)

    def _publish(self, *, force: bool = False) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        table = self._cluster.routing_table(self.version + 1)
        # Records change, and are published, at once.
        routes = ({n: r.replicas for n, r in table.routes.items()}, tuple(self._cluster.workers))
        if force or routes != self._published:
            self._published = routes
            self._latest.set(table)
