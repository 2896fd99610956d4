"""A warm worker: a process without a model of its own, in which any prepared revision can light."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from pilotlight_platform.engine.encoders import Encoders
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.host_tier import HostTier
from pilotlight_platform.engine.openmp import compute_alone
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.links import read_links
from pilotlight_platform.logs import log_to
from pilotlight_platform.schemas.cluster import AttachOrder, WorkerInfo, WorkerReport
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest
from pilotlight_platform.settings import Settings
from pilotlight_platform.worker.overtakers import Overtakers
from pilotlight_platform.worker.reports import Reports
from pilotlight_platform.worker.resident import Resident
from pilotlight_platform.worker.residents import Residents
from pilotlight_platform.worker.skeletons import Skeletons
from pilotlight_platform.worker_pool import call, ray_errors

logger = logging.getLogger("pilotlight.worker")

# A request can overtake the attach order that the scheduler sent before it: wait for the order
# this long. Both are one hop away, a few milliseconds apart.
_ORDER_GRACE_S = 2.0
_RECONNECT_S = 0.5
_MAX_BATCH = 256
_INLINE_PROMPT_CHARS = 16_384  # about 5 ms
_BUILDERS = 32  # asyncio's own bound; some may wait for a detach


class Worker:
    """Ray Serve deployment. Attaches and detaches on the scheduler's order, serves generations."""

    def __init__(self, settings: Settings, scheduler: DeploymentHandle) -> None:
        # The compute thread holds the GIL between kernels; at the default 5 ms it would delay
        # each message of the event loop by up to that.
        sys.setswitchinterval(0.0005)
        log_to(settings.log_dir, "worker")
        self._settings = settings
        self._scheduler = scheduler
        links = read_links(settings.home)
        self._floors = {} if links is None else links.floors()
        self._info = WorkerInfo(
            worker_id=serve.get_replica_context().replica_id.unique_id,
            node_id=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            threads=settings.threads_per_worker,
            capacity_bytes=settings.worker_capacity_bytes,
            max_replicas=settings.worker_max_replicas,
            memory_bytes=psutil.virtual_memory().total,
            bytes_per_s=self._floors,
        )
        # The gateway keeps to each model's max_ongoing_requests: no second limit here.
        self._engine = Engine(
            settings.threads_per_worker, _MAX_BATCH, settings.kv_cache_bytes_per_worker
        )
        self._engine.start()
        compute_alone()
        # Skeletons are built on these threads.
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(_BUILDERS, "pilotlight-build", initializer=compute_alone)
        )
        self._host_tier = HostTier.open(settings.arena_path) if settings.arena_bytes else None
        self._skeletons = Skeletons(self._engine)
        self._reports = Reports(lambda: self._residents.reports())
        self._residents = Residents(
            self._engine,
            self._skeletons,
            Overtakers(_ORDER_GRACE_S),
            self._host_tier,
            self._floors,
            self._reports.changed,
        )
        self._encoders = Encoders()
        self._attending = asyncio.create_task(self._attend())

    async def _attend(self) -> None:
        """Hold a call open at the scheduler: it returns or fails only when that one has gone."""
        while True:
            try:
                with ray_errors("scheduler"):
                    await call(self._scheduler.attend, self._info)
            except Exception as error:  # the scheduler restarts: introduce ourselves again
                logger.warning("scheduler_lost reason=%s", error)
            await asyncio.sleep(_RECONNECT_S)

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """This worker's state, now and after each change."""
        async for report in self._reports.values():
            yield report

    async def prepare(self, revision_id: str, path: str) -> None:
        """Build the revision's skeleton; returns when it stands. Idempotent.

        Raises AttachError with the reason.
        """
        await self._skeletons.prepare(revision_id, path)

    async def forget(self, revision_id: str) -> None:
        """Drop the skeleton of a revision that is no longer live."""
        self._skeletons.forget(revision_id, attached=revision_id in self._residents)

    async def attach(self, order: AttachOrder) -> WorkerReport:
        """Carry out *order*; answers when the replica is ready. Idempotent.

        Raises EvictionRefusedError if a victim is busy, AttachError if it cannot be mapped.
        """
        await self._residents.attach(order)
        return self._reports.make()

    async def detach(self, revision_id: str) -> WorkerReport:
        """Detach an idle revision; nothing is done if it is attaching or has requests."""
        await self._residents.detach(revision_id)
        return self._reports.make()

    async def generate(
        self, request: GenerationRequest, expected: bool
    ) -> AsyncIterator[GenerationChunk]:
        """The answer in chunks. *expected*: an attach order is on its way, so wait for it.

        Raises ReplicaGoneError if the revision is not attached here, AttachError, RequestError,
        EngineError.
        """
        resident = await self._residents.find(request.revision_id, expected=expected)
        resident.began()
        self._reports.changed()
        began_s: float | None = None
        answered = False
        try:
            await resident.done.wait()
            if resident.error is not None:
                raise resident.error
            began_s = time.monotonic()  # waiting for the weights is not what a request takes
            request = await self._encoded(resident, request)
            async for chunk in self._run(resident, request):
                yield chunk
            answered = True
            if resident.replica is not None:
                resident.replica.bring_to_host()
        finally:
            resident.ended(began_s if answered else None)  # refused: says nothing of answers
            self._reports.changed()

    async def _encoded(self, resident: Resident, request: GenerationRequest) -> GenerationRequest:
        """*request* with its prompt as token ids, where making them may take long.

        A template is a program and a tokenizer needs a second for a megabyte: on the compute
        thread that would stop every other stream. Raises RequestError.
        """
        if request.messages is None and len(request.prompt or "") <= _INLINE_PROMPT_CHARS:
            return request  # a hop costs as much as encoding these
        assert resident.replica is not None
        ids = await self._encoders.encode(resident.replica.skeleton, request)
        return replace(request, prompt=None, messages=None, prompt_tokens=tuple(ids))

    async def _run(
        self, resident: Resident, request: GenerationRequest
    ) -> AsyncIterator[GenerationChunk]:
        assert resident.replica is not None
        loop = asyncio.get_running_loop()
        # Bounded by the request's max_tokens, a chunk is a few hundred bytes.
        chunks: asyncio.Queue[GenerationChunk | PlatformError] = asyncio.Queue()

        def sink(item: GenerationChunk | PlatformError) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, item)

        ticket = self._engine.submit(resident.replica, request, sink)
        try:
            while True:
                item = await chunks.get()
                if isinstance(item, PlatformError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            ticket.cancel()

    async def check_health(self) -> None:
        """Serve's health check: the compute thread must be alive."""
        if not self._engine.alive:
            raise RuntimeError("the compute thread has died")

    async def __del__(self) -> None:
        self._attending.cancel()
        self._encoders.close()
        await asyncio.to_thread(self._engine.close)
        if self._host_tier is not None:
            await asyncio.to_thread(self._host_tier.close)
