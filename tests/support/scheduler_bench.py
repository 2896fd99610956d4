"""The whole scheduler on a real store, with workers of its own process: no Ray."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from support.own_workers import OwnWorkers
from support.waiting import until_true

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.scheduler.scheduler import Scheduler
from pilotlight_platform.schemas.cluster import WorkerInfo

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
