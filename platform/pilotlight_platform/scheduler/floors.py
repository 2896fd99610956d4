"""What live models keep although idle, held against the pool: a change for the worse is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_autoscaler.floors import Keeper, Room, find_shortage
from pilotlight_platform.errors import FloorsTooHighError
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.settings import Settings

logger = logging.getLogger("pilotlight.scheduler")


class Floors:
    """``min_replicas`` and schedules. What did not fit before may stay: it may be on its way."""

    def __init__(
        self, cluster: Cluster, settings: Settings, pool: Callable[[], PoolConfig]
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._pool = pool

    async def check_model(self, name: str, config: AutoscalingConfig, nbytes: int = 0) -> None:
        """Whether *name* may have these settings and weights; 0 bytes: not known yet.

        Raises FloorsTooHighError if floors need more workers than there may be, and than before.
        """
        before, room = self._keepers(), self._room(self._pool())
        after = [*(each for each in before if each.name != name), Keeper(name, config, nbytes)]
        now_s = now()  # of both looks: what needs no more then needs no more
        shortage = await asyncio.to_thread(find_shortage, after, room, now_s)
        if shortage is None:
            return
        old = await asyncio.to_thread(find_shortage, before, room, now_s)
        if old is None or shortage.workers > old.workers:
            raise FloorsTooHighError(shortage.text)

    async def check_pool(self, config: PoolConfig) -> None:
        """Raises FloorsTooHighError if fewer workers cannot hold what is kept."""
        if config.max_workers >= self._pool().max_workers:
            return
        room = self._room(config)
        shortage = await asyncio.to_thread(find_shortage, self._keepers(), room, now())
        if shortage is not None:
            raise FloorsTooHighError(shortage.text)

    async def warn(self) -> None:
        """A line in the log if what is live does not fit the pool that was started."""
        keepers, room = self._keepers(), self._room(self._pool())
        shortage = await asyncio.to_thread(find_shortage, keepers, room, now())
        if shortage is not None:
            logger.warning("floors_too_high reason=%s", shortage.text)

    def _keepers(self) -> list[Keeper]:
        return [
            Keeper(name, each.record.spec.autoscaling, each.record.revision.nbytes)
            for name, each in self._cluster.models.items()
        ]

    def _room(self, pool: PoolConfig) -> Room:
        settings = self._settings
        return Room(
            workers=pool.max_workers,
            worker_bytes=self._cluster.largest_worker_bytes() or settings.worker_capacity_bytes,
            slots=settings.worker_max_replicas,
            limit="max_workers" if settings.pool is not None else "--workers",
        )
