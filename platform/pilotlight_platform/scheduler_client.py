"""The scheduler as the gateway calls it: bounded, and with the platform's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_platform.errors import OverloadedError
from pilotlight_platform.schemas.cluster import Route, RoutingTable
from pilotlight_platform.schemas.cold_start import ColdAnswer
from pilotlight_platform.schemas.decision import Explanation, PoolStatus, ScalingStatus
from pilotlight_platform.schemas.model import ModelRecord, ModelStatus, WorkerStatus
from pilotlight_platform.worker_pool import call, ray_errors, remote_items, within

_CALL_TIMEOUT_S = 10.0
_PUT_TIMEOUT_S = 180.0  # builds the skeleton on every worker
_WHAT = "scheduler"


class SchedulerClient:
    """Raises WorkerLostError while the scheduler restarts, OverloadedError if it is too slow."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def place(self, gateway: str, name: str, queued: int, running: int) -> Route:
        route: Route = await self._call("place", gateway, name, queued, running)
        return route

    async def cold_answers(self, answers: Sequence[ColdAnswer]) -> None:
        await self._call("cold_answers", answers)

    async def watch(self) -> AsyncIterator[RoutingTable]:
        """The routing table, now and after each change; each is the caller's to edit."""
        stream = call(self._handle.options(stream=True).watch)
        table = RoutingTable(-1)
        async for change in remote_items(stream, _WHAT):
            table = table.changed(change)
            yield replace(table, routes=dict(table.routes))

    async def put_model(self, record: ModelRecord) -> int:
        version: int = await self._call("put_model", record, timeout_s=_PUT_TIMEOUT_S)
        return version

    async def delete_model(self, name: str) -> int:
        version: int = await self._call("delete_model", name)
        return version

    async def check_floors(self, name: str, config: AutoscalingConfig) -> None:
        await self._call("check_floors", name, config)

    async def configure(self, name: str, config: AutoscalingConfig) -> int:
        version: int = await self._call("configure", name, config)
        return version

    async def explain(self, name: str, since_s: float) -> Explanation:
        found: Explanation = await self._call("explain", name, since_s)
        return found

    async def explain_pool(self, since_s: float) -> Explanation:
        found: Explanation = await self._call("explain_pool", since_s)
        return found

    async def scaling(self, name: str) -> ScalingStatus:
        found: ScalingStatus = await self._call("scaling", name)
        return found

    async def pool(self) -> PoolStatus:
        found: PoolStatus = await self._call("pool")
        return found

    async def configure_pool(self, config: PoolConfig) -> PoolStatus:
        found: PoolStatus = await self._call("configure_pool", config)
        return found

    async def checkpoints_in_use(self) -> set[str]:
        paths: set[str] = await self._call("checkpoints_in_use")
        return paths

    async def models(self) -> list[ModelStatus]:
        found: list[ModelStatus] = await self._call("models")
        return found

    async def workers(self) -> list[WorkerStatus]:
        found: list[WorkerStatus] = await self._call("workers")
        return found

    async def _call(self, method: str, *args: Any, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        with ray_errors(_WHAT):
            try:
                return await within(timeout_s, call(getattr(self._handle, method), *args))
            except TimeoutError as error:
                raise OverloadedError(
                    f"The scheduler did not answer `{method}` within {timeout_s:g} s."
                ) from error
