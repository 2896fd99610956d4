"""What the gateway's routes work with: one object per gateway replica."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass, field

from ray.serve.handle import DeploymentHandle

from pilotlight_platform.errors import (
    ModelNotFoundError,
    PlatformError,
    WorkerLostError,
)
from pilotlight_platform.gateway.admission import Admission
from pilotlight_platform.gateway.cold_starts import ColdStartNews
from pilotlight_platform.gateway.deploys import Deploys
from pilotlight_platform.gateway.generator import Generator
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.logs import log_to
from pilotlight_platform.scheduler_client import SchedulerClient
from pilotlight_platform.schemas.cluster import Route
from pilotlight_platform.schemas.model import ModelStatus, PlatformStatus, WorkerStatus
from pilotlight_platform.settings import Settings
from pilotlight_platform.version import __version__
from pilotlight_platform.worker_pool import WorkerPool

logger = logging.getLogger("pilotlight.gateway")

_RETRY_S = 0.2
_TABLE_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Services:
    """Owns the gateway's background tasks; ``start`` and ``close`` belong to the app's lifespan."""

    settings: Settings
    scheduler: SchedulerClient
    admission: Admission
    timelines: TimelineLog
    generator: Generator
    deploys: Deploys
    news: ColdStartNews
    started_at_s: float = field(default_factory=time.time)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _updated: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def create(
        cls, settings: Settings, scheduler: DeploymentHandle, worker: DeploymentHandle
    ) -> Services:
        log_to(settings.log_dir, "gateway")
        client = SchedulerClient(scheduler)
        gateway_id = uuid.uuid4().hex

        async def place(name: str, queued: int, running: int) -> Route:
            try:
                return await client.place(gateway_id, name, queued, running)
            except WorkerLostError:
                # The scheduler restarts: what waits keeps waiting, within its own bound.
                await asyncio.sleep(_RETRY_S)
                return admission.route(name)

        admission = Admission(place)
        news = ColdStartNews(client.cold_answers)
        timelines = TimelineLog(settings.request_log_size, news.note)
        generator = Generator(admission, WorkerPool(worker), timelines)
        deploys = Deploys(settings, client)
        return cls(settings, client, admission, timelines, generator, deploys, news)

    async def start(self) -> None:
        """Returns when it is known which models there are, at the latest after ten seconds."""
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._tidy())]
        await self.table_reached(0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.news.close()
        self.deploys.close()

    async def _tidy(self) -> None:
        """Remove what an earlier life left: unfinished bakes, checkpoints of no model."""
        await self.table_reached(0)
        await self.deploys.collect()

    async def _watch(self) -> None:
        """Follow the routing table; a restarted scheduler is followed anew."""
        while True:
            try:
                async for table in self.scheduler.watch():
                    self.admission.update(table)
                    self._updated.set()
                    self._updated = asyncio.Event()
            except PlatformError as error:
                logger.warning("scheduler_lost reason=%s", error)
            except Exception:  # routing must not freeze: follow it anew
                logger.exception("watch_failed")
            self.admission.forget_version()
            await asyncio.sleep(_RETRY_S)

    async def table_reached(self, version: int) -> None:
        """Wait until the routing table shows what an admin call changed."""
        try:
            async with asyncio.timeout(_TABLE_TIMEOUT_S):
                while self.admission.table.version < version:
                    await self._updated.wait()
        except TimeoutError:
            logger.warning("table_behind version=%d", version)

    async def model_status(self, name: str) -> ModelStatus:
        """Raises ModelNotFoundError."""
        for status in await self.scheduler.models():
            if status.name == name:
                return status
        raise ModelNotFoundError(f"There is no model {name!r}: `pilotlight list` shows them.")

    async def delete_model(self, name: str) -> None:
        await self.table_reached(await self.scheduler.delete_model(name))
        self.deploys.collect_soon()

    async def status(self) -> PlatformStatus:
        models = await self.scheduler.models()
        workers: list[WorkerStatus] = await self.scheduler.workers()
        return PlatformStatus(
            version=__version__,
            uptime_s=time.time() - self.started_at_s,
            workers=workers,
            models=models,
        )
