"""What gateways ask for: a place for requests that wait, and the routing table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pilotlight_platform.errors import AttachError
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.table import Table
from pilotlight_platform.scheduler.told import Told
from pilotlight_platform.schemas.cluster import Route

_PLACE_WAIT_S = 1.0  # a gateway asks again while requests wait


class Requests:
    """Lives on the scheduler's event loop; *step* asks it to decide again."""

    def __init__(
        self, cluster: Cluster, told: Told, table: Table, step: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._told = told
        self._table = table
        self._step = step

    async def place(self, gateway: str, name: str, queued: int, running: int) -> Route:
        """See ``Scheduler.place``."""
        model = self._cluster.model(name)
        more = model.want(gateway, queued, now())
        if more:
            self._told.arrived(name, now(), more)
        self._step()
        try:
            async with asyncio.timeout(_PLACE_WAIT_S):
                while not (found := self._cluster.replicas(name)) and queued:
                    self._raise_if_hopeless(name)
                    await self._table.changed(name)
        except TimeoutError:
            pass
        model = self._cluster.model(name)  # it may have been deleted meanwhile, or deployed again
        route = self._cluster.route(name, found)
        if not self._cluster.has_room(name, queued, running):
            return route
        # Taken back here: the gateway's own message would be handled beside the first prefill.
        model.want(gateway, 0, now())
        return replace(route, settled=True)

    def _raise_if_hopeless(self, name: str) -> None:
        model = self._cluster.model(name)
        unplaced = self._cluster.unplaced.get(name)
        if unplaced is not None and unplaced.permanent:
            raise AttachError(f"Model {name!r}: {unplaced.reason}")
        wait_s = model.retry_at_s - now()
        if wait_s > 0:
            raise AttachError(f"{model.last_error} (next try in {wait_s:.0f} s)")
