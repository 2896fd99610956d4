"""From an admitted request to its chunks: slot, worker, stream, and the timeline of all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace

from pilotlight_platform.errors import (
    ColdStartTimeoutError,
    EngineError,
    PlatformError,
    ReplicaGoneError,
    WorkerLostError,
)
from pilotlight_platform.gateway.admission import Admission, Slot
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest
from pilotlight_platform.schemas.timeline import Span, Timeline
from pilotlight_platform.worker_pool import WorkerPool

_MAX_LOST_WORKERS = 2
_PAUSE_S = 0.1
_ADMIT_FLOOR_S = 0.001
_PLACE_FLOOR_S = 0.005


@dataclass(slots=True)
class Generation:
    """A running answer. Its first chunk is there; ``close`` must be called in every case."""

    timeline: Timeline
    first: GenerationChunk
    _stream: AsyncGenerator[GenerationChunk]
    _slot: Slot
    _admission: Admission
    _log: TimelineLog
    _closed: bool = field(default=False)

    async def chunks(self) -> AsyncIterator[GenerationChunk]:
        """Every chunk, the first included. Raises WorkerLostError or EngineError midway."""
        self._note(self.first)
        yield self.first
        if self.first.finish_reason is not None:
            return
        try:
            async for chunk in self._stream:
                self._note(chunk)
                yield chunk
        except PlatformError as error:
            self.timeline = replace(self.timeline, error=error.message)
            raise
        if self.timeline.finish_reason is None:
            cut = EngineError("the stream ended without a finish reason")
            self.timeline = replace(self.timeline, error=cut.message)
            raise cut

    def _note(self, chunk: GenerationChunk) -> None:
        line = self.timeline
        spans = chunk.spans if chunk is not self.first else ()
        self.timeline = replace(
            line,
            completion_tokens=line.completion_tokens + chunk.tokens,
            finish_reason=chunk.finish_reason or line.finish_reason,
            spans=(*line.spans, *spans),
        )

    def mark_first_byte(self) -> None:
        """The first bytes of the answer leave now: closes the time to first token."""
        now_s = time.time()
        if self.timeline.ttft_s is None:
            began_s = max((span.end_s for span in self.timeline.spans), default=now_s)
            self.timeline = replace(
                self.timeline,
                ttft_s=now_s - self.timeline.at_s,
                spans=(*self.timeline.spans, Span("first_token", min(began_s, now_s), now_s)),
            )
            self._log.put(self.timeline)

    async def close(self) -> None:
        """Cancel what still runs, give the slot back, keep the timeline. Idempotent."""
        if self._closed:
            return
        self._closed = True
        line = self.timeline
        self._admission.release(line.model, self._slot)
        if line.finish_reason is None and line.error is None:
            line = replace(line, error="the client went away")
        self._log.put(replace(line, total_s=time.time() - line.at_s))
        await self._stream.aclose()


@dataclass(slots=True)
class _Routed:
    """What a request has met so far, in all of its attempts."""

    line: Timeline  # cold: none of the model's replicas was ready at one of them
    no_worker: bool = False  # at one of them
    admitted_s: float = field(default_factory=time.time)


class Generator:
    """Starts generations; routes again when a replica or its worker has gone before a token."""

    def __init__(self, admission: Admission, workers: WorkerPool, log: TimelineLog) -> None:
        self._admission = admission
        self._workers = workers
        self._log = log

    async def start(
        self, name: str, request: GenerationRequest, *, endpoint: str, at_s: float
    ) -> Generation:
        """The generation, with its first chunk, within the model's ``cold_start_timeout_s``.

        ``request.revision_id`` is filled in here. Raises ModelNotFoundError, OverloadedError,
        AttachError, RequestError, EngineError; WorkerLostError if it has cost two workers.
        """
        routed = _Routed(Timeline(request.request_id, name, endpoint, at_s, 200))
        try:
            bound_s = self._admission.route(name).record.spec.autoscaling.cold_start_timeout_s
            return await self._route(name, request, routed, time.monotonic() + bound_s)
        except PlatformError as error:
            failed = replace(routed.line, status=error.status, error=error.message)
            self._log.put(replace(failed, total_s=time.time() - at_s))
            raise

    async def _route(
        self, name: str, request: GenerationRequest, routed: _Routed, deadline: float
    ) -> Generation:
        lost = attempts = 0
        while True:
            try:
                return await self._attempt(name, request, routed, deadline)
            except (ReplicaGoneError, WorkerLostError) as error:
                # A request that has cost two workers may be the cause: it gets no third.
                lost += isinstance(error, WorkerLostError)
                attempts += 1
                routed.line = replace(routed.line, attempts=attempts + 1)
                if lost == _MAX_LOST_WORKERS or time.monotonic() + _PAUSE_S > deadline:
                    raise
            if lost or attempts > 1:
                await asyncio.sleep(_PAUSE_S)  # until scheduler and Serve have noticed, too
            # Else a replica went in this very moment: it is forgotten, ask for another at once.

    async def _attempt(
        self, name: str, request: GenerationRequest, routed: _Routed, deadline: float
    ) -> Generation:
        route = self._admission.route(name)
        if not any(replica.ready for replica in route.replicas):
            routed.line = replace(routed.line, cold=True)
        routed.no_worker |= not self._admission.table.workers
        line, admitted_s = routed.line, routed.admitted_s
        slot = await self._admission.acquire(name, max(0.0, deadline - time.monotonic()))
        placed_s = time.time()
        spans = [Span("admit", line.at_s, admitted_s, floor_s=_ADMIT_FLOOR_S)]
        if routed.no_worker:
            spans.append(Span("start_worker", admitted_s, placed_s))
        elif line.cold or placed_s - admitted_s > _PLACE_FLOOR_S:
            spans.append(Span("place", admitted_s, placed_s, floor_s=_PLACE_FLOOR_S))
        record = slot.record
        call = replace(
            request,
            revision_id=record.revision.id,
            max_context_tokens=record.spec.max_context_tokens,
        )
        stream = self._workers.generate(slot.worker_id, call, expected=not slot.ready)
        try:
            first = await self._first_chunk(name, slot, stream, deadline)
        except BaseException:
            self._admission.release(name, slot)
            await stream.aclose()
            raise
        if not slot.ready:
            self._admission.mark_ready(name, slot.worker_id)
        line = replace(
            line,
            revision_id=slot.record.revision.id,
            worker_id=slot.worker_id,
            prompt_tokens=first.prompt_tokens or 0,
            spans=(*spans, *first.spans),
        )
        return Generation(line, first, stream, slot, self._admission, self._log)

    async def _first_chunk(
        self, name: str, slot: Slot, stream: AsyncGenerator[GenerationChunk], deadline: float
    ) -> GenerationChunk:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await anext(stream)
        except (ReplicaGoneError, WorkerLostError):
            self._admission.forget_replica(name, slot.worker_id)
            raise
        except TimeoutError as error:
            raise ColdStartTimeoutError(
                f"Model {name!r} gave no token in time (autoscaling.cold_start_timeout_s).",
                retry_after_s=10.0,
            ) from error
        except StopAsyncIteration as error:
            raise EngineError("the worker's stream ended without a token") from error
