"""The worker pool as gateway and scheduler call it: Ray's errors become the platform's here."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pilotlight_platform.errors import EngineError, PlatformError, WorkerLostError
from pilotlight_platform.schemas.cluster import AttachOrder, WorkerReport
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest


@contextmanager
def ray_errors(what: str) -> Iterator[None]:
    """Raise what a remote PlatformError was, WorkerLostError for a dead process."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, PlatformError):
            raise error.cause from None
        raise EngineError(f"{what}: {error.cause!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Not ours: Serve reports a call that was cancelled at the other end in this way.
        raise WorkerLostError(f"{what}: the call was cancelled") from error
    except RayActorError as error:
        raise WorkerLostError(f"{what}: the process died") from error
    except (RayError, RayServeException) as error:
        raise WorkerLostError(f"{what}: {error}") from error


def call(method: Any, *args: Any) -> Any:
    """``method.remote(*args)``, as a call of its own.

    Inside a request, Serve gives every outgoing call that request's internal id. Two at once to
    one deployment then share an id, the router loses one of them, and its task spins for ever
    (Ray 2.60, ``RequestRouter._pending_requests_by_id``); and a call dies with the request that
    made it. In an empty context each call has an id and a life of its own.
    """
    return contextvars.Context().run(method.remote, *args)


class WorkerPool:
    """Calls to one named worker. Not bounded in time here: the callers know their deadlines."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def _one(self, worker_id: str, *, stream: bool = False) -> Any:
        return self._handle.options(multiplexed_model_id=worker_id, stream=stream)

    async def generate(
        self, worker_id: str, request: GenerationRequest, *, expected: bool
    ) -> AsyncGenerator[GenerationChunk]:
        """Stream the answer; closing the iterator cancels the generation."""
        stream = call(self._one(worker_id, stream=True).generate, request, expected)
        async with aclosing(remote_items(stream, f"worker {worker_id}")) as chunks:
            async for chunk in chunks:
                yield chunk

    async def reports(self, worker_id: str) -> AsyncIterator[WorkerReport]:
        """The worker's state and its changes; raises WorkerLostError as soon as it dies."""
        stream = call(self._one(worker_id, stream=True).reports)
        async for report in remote_items(stream, f"worker {worker_id}"):
            yield report

    async def prepare(self, worker_id: str, revision_id: str, path: str) -> None:
        with ray_errors(f"worker {worker_id}"):
            await call(self._one(worker_id).prepare, revision_id, path)

    async def forget(self, worker_id: str, revision_id: str) -> None:
        with ray_errors(f"worker {worker_id}"):
            await call(self._one(worker_id).forget, revision_id)

    async def attach(self, worker_id: str, order: AttachOrder) -> WorkerReport:
        with ray_errors(f"worker {worker_id}"):
            report: WorkerReport = await call(self._one(worker_id).attach, order)
            return report

    async def detach(self, worker_id: str, revision_id: str) -> WorkerReport:
        with ray_errors(f"worker {worker_id}"):
            report: WorkerReport = await call(self._one(worker_id).detach, revision_id)
            return report


async def remote_items(stream: Any, what: str) -> AsyncGenerator[Any]:
    """The items of a streaming call; leaving early cancels it at the other end."""
    try:
        with ray_errors(what):
            async for item in stream:
                yield item
    except (asyncio.CancelledError, GeneratorExit):
        stream.cancel()
        raise


async def within(seconds: float, awaitable: Any) -> Any:
    """``await`` with a bound. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        return await awaitable
