"""A warm worker: a process without a model of its own, in which any prepared revision can light."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from pilotlight_loader import LoaderError
from pilotlight_platform.engine.encoders import Encoders
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.host_tier import HostTier
from pilotlight_platform.engine.openmp import compute_alone
from pilotlight_platform.engine.rehearsal import rehearse
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import (
    AttachError,
    EvictionRefusedError,
    PlatformError,
    ReplicaGoneError,
)
from pilotlight_platform.latest import Latest
from pilotlight_platform.links import read_links
from pilotlight_platform.logs import log_to
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaPhase,
    ReplicaReport,
    WorkerInfo,
    WorkerReport,
)
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest
from pilotlight_platform.settings import Settings
from pilotlight_platform.worker.overtakers import Overtakers
from pilotlight_platform.worker_pool import call, ray_errors

logger = logging.getLogger("pilotlight.worker")

# A request can overtake the attach order that the scheduler sent before it: wait for the order
# this long. Both are one hop away, a few milliseconds apart.
_ORDER_GRACE_S = 2.0
_RECONNECT_S = 0.5
_REPORT_DELAY_S = 0.1
_MAX_BATCH = 256
_INLINE_PROMPT_CHARS = 16_384  # about 5 ms
_STAGE_TIMEOUT_S = 600.0
_BUILDERS = 32  # asyncio's own bound; some may wait for a detach


@dataclass(slots=True)
class _Resident:
    """A revision attached, or being attached, to this worker. Lives on the event loop only."""

    order: AttachOrder
    phase: ReplicaPhase = "attaching"
    since_s: float = field(default_factory=time.time)
    ongoing: int = 0
    idle_since_s: float | None = None
    replica: Replica | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: PlatformError | None = None
    lighting: asyncio.Task[None] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self) -> ReplicaReport:
        order = self.order
        staged = None if self.replica is None else self.replica.staged
        tier, staged_s = (None, None) if staged is None else staged
        return ReplicaReport(
            order.model,
            order.revision_id,
            order.nbytes,
            self.phase,
            self.since_s,
            self.ongoing,
            self.idle_since_s,
            tier,
            staged_s,
        )


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
        self._skeletons: dict[str, asyncio.Task[Skeleton]] = {}
        self._residents: dict[str, _Resident] = {}
        self._overtakers = Overtakers(_ORDER_GRACE_S)
        self._staging: set[asyncio.Task[None]] = set()  # kept: a task needs a reference
        self._forgotten: set[str] = set()  # not live any more, but still attached
        self._reports = 0
        self._report = Latest(WorkerReport())
        self._reporting: asyncio.TimerHandle | None = None
        # The gateway keeps to each model's max_ongoing_requests: no second limit here.
        self._engine = Engine(threads=settings.threads_per_worker, max_batch=_MAX_BATCH)
        self._engine.start()
        compute_alone()
        # Skeletons are built on these threads.
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(_BUILDERS, "pilotlight-build", initializer=compute_alone)
        )
        self._host_tier = HostTier.open(settings.arena_path) if settings.arena_bytes else None
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
        async for report in self._report.values():
            yield report

    async def prepare(self, revision_id: str, path: str) -> None:
        """Build the revision's skeleton; returns when it stands. Idempotent.

        Raises AttachError with the reason.
        """
        self._forgotten.discard(revision_id)
        await self._built(revision_id, path)

    async def _built(self, revision_id: str, path: str) -> None:
        task = self._skeletons.get(revision_id)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.create_task(asyncio.to_thread(self._build, Path(path)))
            self._skeletons[revision_id] = task
        try:
            await asyncio.shield(task)
        except (LoaderError, PlatformError, OSError, ValueError) as error:
            raise AttachError(f"revision {revision_id}: {error}") from error

    def _build(self, path: Path) -> Skeleton:
        skeleton = Skeleton.load(path)
        rehearse(self._engine, skeleton)
        return skeleton

    async def forget(self, revision_id: str) -> None:
        """Drop the skeleton of a revision that is no longer live."""
        if revision_id in self._residents:
            self._forgotten.add(revision_id)
        else:
            self._skeletons.pop(revision_id, None)

    async def attach(self, order: AttachOrder) -> WorkerReport:
        """Carry out *order*; answers when the replica is ready. Idempotent.

        Raises EvictionRefusedError if a victim is busy, AttachError if it cannot be mapped.
        """
        resident = self._residents.get(order.revision_id)
        if resident is not None and resident.phase == "draining":
            await resident.gone.wait()
            resident = self._residents.get(order.revision_id)
        if resident is None:
            busy = [r for r in order.evict if r in self._residents and self._is_busy(r)]
            if busy:
                await self._overtakers.order_refused(order.revision_id)
                raise EvictionRefusedError(f"cannot evict {', '.join(busy)}: requests are running")
            victims = [self._residents[r] for r in order.evict if r in self._residents]
            for victim in victims:
                victim.phase = "draining"
            resident = _Resident(order)
            self._residents[order.revision_id] = resident
            # A task of its own: a caller that goes away must not leave it half attached.
            resident.lighting = asyncio.create_task(self._light(resident, victims))
            await self._overtakers.order_taken(order.revision_id)
        await resident.done.wait()
        if resident.error is not None:
            raise resident.error
        return self._make_report()

    async def _light(self, resident: _Resident, victims: list[_Resident]) -> None:
        order = resident.order
        self._publish()
        try:
            for victim in victims:
                await self._extinguish(victim)
            await self._built(order.revision_id, order.path)
            skeleton = self._skeletons[order.revision_id].result()
            # On the loop, not in a thread: it takes about 3 ms and a thread hop costs as much.
            resident.replica = Replica.attach(
                skeleton, host_tier=self._host_tier, floors=self._floors
            )
            resident.phase = "ready"
            resident.since_s = resident.idle_since_s = time.time()
            if resident.replica.staged is None:
                self._staging.add(task := asyncio.create_task(self._report_staged(resident)))
                task.add_done_callback(self._staging.discard)
        except Exception as error:  # whatever it is, it ends this attach and nothing else
            logger.exception("attach_failed model=%s", order.model)
            resident.error = AttachError(f"model {order.model!r} cannot be attached: {error}")
            self._leave(resident)
        finally:
            resident.done.set()
            self._publish()

    async def _report_staged(self, resident: _Resident) -> None:
        """Tell when the last page has come from the disk: that is when a cold start has ended."""
        assert resident.replica is not None
        await asyncio.to_thread(resident.replica.wait_staged, _STAGE_TIMEOUT_S)
        self._publish()

    async def detach(self, revision_id: str) -> WorkerReport:
        """Detach an idle revision; nothing is done if it is attaching or has requests."""
        resident = self._residents.get(revision_id)
        if resident is not None and resident.phase == "draining":
            await resident.gone.wait()
        elif resident is not None and not self._is_busy(revision_id):
            resident.phase = "draining"
            await self._extinguish(resident)
        return self._make_report()

    def _is_busy(self, revision_id: str) -> bool:
        resident = self._residents[revision_id]
        return resident.ongoing > 0 or resident.phase == "attaching"

    async def _extinguish(self, resident: _Resident) -> None:
        """Give a draining resident's weights back; it counts as here until they are."""
        self._publish()
        try:
            if resident.replica is not None:
                self._engine.drop(resident.replica)
                # Waits for a forward pass that may be running for a client that has gone.
                await asyncio.to_thread(resident.replica.detach)
        finally:
            self._leave(resident)
            self._publish()

    def _leave(self, resident: _Resident) -> None:
        revision_id = resident.order.revision_id
        self._residents.pop(revision_id, None)
        resident.gone.set()
        if revision_id in self._forgotten:
            self._forgotten.discard(revision_id)
            self._skeletons.pop(revision_id, None)

    async def generate(
        self, request: GenerationRequest, expected: bool
    ) -> AsyncIterator[GenerationChunk]:
        """The answer in chunks. *expected*: an attach order is on its way, so wait for it.

        Raises ReplicaGoneError if the revision is not attached here, AttachError, RequestError,
        EngineError.
        """
        resident = await self._resident(request.revision_id, expected)
        resident.ongoing += 1
        resident.idle_since_s = None
        self._publish()
        try:
            await resident.done.wait()
            if resident.error is not None:
                raise resident.error
            request = await self._encoded(resident, request)
            async for chunk in self._run(resident, request):
                yield chunk
            if resident.replica is not None:
                resident.replica.bring_to_host()
        finally:
            resident.ongoing -= 1
            if resident.ongoing == 0:
                resident.idle_since_s = time.time()
            self._publish()

    async def _resident(self, revision_id: str, expected: bool) -> _Resident:
        if expected:
            await self._overtakers.wait(revision_id, lambda: self._is_expected(revision_id))
        resident = self._residents.get(revision_id)
        if resident is None or resident.phase == "draining":
            raise ReplicaGoneError(f"revision {revision_id} is not attached here")
        return resident

    def _is_expected(self, revision_id: str) -> bool:
        resident = self._residents.get(revision_id)
        return resident is not None and resident.phase != "draining"

    async def _encoded(self, resident: _Resident, request: GenerationRequest) -> GenerationRequest:
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
        self, resident: _Resident, request: GenerationRequest
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

    def _publish(self) -> None:
        """Report soon: what the scheduler waits for, it learns from the answer to its order.

        At once would be several messages beside the first prefill, on the cores that compute it.
        """
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(_REPORT_DELAY_S, self._send)

    def _send(self) -> None:
        self._reporting = None
        self._report.set(self._make_report())

    def _make_report(self) -> WorkerReport:
        self._reports += 1
        return WorkerReport(self._reports, tuple(r.report() for r in self._residents.values()))

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
