"""The admin API, which the `pilotlight` command uses."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import PydanticSerializationError

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_platform.errors import InvalidRequestError, PlatformError, RequestError
from pilotlight_platform.gateway.error_responses import internal_error
from pilotlight_platform.gateway.openai_routes import Platform
from pilotlight_platform.gateway.services import Services
from pilotlight_platform.schemas.decision import Explanation, PoolStatus, ScalingStatus
from pilotlight_platform.schemas.model import (
    DeployEvent,
    DeployFailed,
    DeployLive,
    DeployProgress,
    ModelSpec,
    ModelStatus,
    PlatformStatus,
)
from pilotlight_platform.schemas.timeline import Timeline

logger = logging.getLogger("pilotlight.gateway")

router = APIRouter(prefix="/api")

_NDJSON = "application/x-ndjson"


class UnknownRequestError(RequestError):
    """No timeline of that request is kept."""

    code = "request_not_found"
    status = 404


@router.get("/status")
async def status(platform: Platform) -> PlatformStatus:
    return await platform.status()


@router.get("/models")
async def list_models(platform: Platform) -> dict[str, list[ModelStatus]]:
    return {"models": await platform.scheduler.models()}


@router.get("/models/{name}")
async def get_model(platform: Platform, name: str) -> ModelStatus:
    return await platform.model_status(name)


@router.put("/models/{name}", response_model=None)
async def put_model(
    request: Request, platform: Platform, name: str, spec: ModelSpec
) -> Response | DeployLive:
    """Deploy; answers when the model is live, or streams progress to who accepts NDJSON."""
    _check(spec, name)
    if _NDJSON in request.headers.get("accept", ""):
        lines = _event_lines(platform, spec, request.state.request_id)
        return StreamingResponse(lines, media_type=_NDJSON)
    async with aclosing(_deploy(platform, spec)) as events:
        async for event in events:
            if isinstance(event, DeployLive):
                return event
    raise PlatformError("the deploy ended without a result")


@router.delete("/models/{name}", status_code=204)
async def delete_model(platform: Platform, name: str) -> None:
    await platform.delete_model(name)


@router.get("/models/{name}/decisions")
async def get_decisions(
    platform: Platform, name: str, since_s: Annotated[float, Query(ge=0)] = 0.0
) -> Explanation:
    """How the model stands, and what was decided on it since that Unix time, oldest first."""
    return await platform.scheduler.explain(name, since_s)


@router.get("/models/{name}/autoscaling")
async def get_scaling(platform: Platform, name: str) -> ScalingStatus:
    """The model's settings, and what they come to with all that was measured."""
    return await platform.scheduler.scaling(name)


@router.put("/models/{name}/autoscaling")
async def put_scaling(platform: Platform, name: str, config: AutoscalingConfig) -> ScalingStatus:
    """Other settings, in place: no replica starts anew for it."""
    await platform.table_reached(await platform.scheduler.configure(name, config))
    return await platform.scheduler.scaling(name)


@router.get("/pool")
async def get_pool(platform: Platform) -> PoolStatus:
    """The worker pool's settings, and how many workers there are and should be."""
    return await platform.scheduler.pool()


@router.get("/pool/decisions")
async def get_pool_decisions(
    platform: Platform, since_s: Annotated[float, Query(ge=0)] = 0.0
) -> Explanation:
    """The same of the worker pool as of a model."""
    return await platform.scheduler.explain_pool(since_s)


@router.put("/pool")
async def put_pool(platform: Platform, config: PoolConfig) -> PoolStatus:
    """Other bounds, in place: workers come and go as they then should."""
    return await platform.scheduler.configure_pool(config)


@router.get("/requests/{request_id}")
async def get_request(platform: Platform, request_id: str) -> Timeline:
    """The whole timeline of one of the newest requests."""
    timeline = platform.timelines.get(request_id)
    if timeline is None:
        raise UnknownRequestError(
            f"No timeline of request {request_id!r}: the newest "
            f"{platform.settings.request_log_size} are kept, in memory."
        )
    return timeline


def _check(spec: ModelSpec, name: str) -> None:
    """Raises InvalidRequestError."""
    if spec.name != name:
        raise InvalidRequestError(f"name: the path says {name!r}, the body {spec.name!r}", "name")
    try:
        spec.model_dump_json()
    except PydanticSerializationError:  # the store could not write it down, after all the baking
        raise InvalidRequestError(
            "revision: no valid Unicode, a lone surrogate", "revision"
        ) from None


async def _deploy(
    platform: Services, spec: ModelSpec
) -> AsyncGenerator[DeployProgress | DeployLive]:
    async with aclosing(platform.deploys.run(spec)) as steps:
        async for step in steps:
            if isinstance(step, DeployProgress):
                yield step
                continue
            record, reused, version = step
            await platform.table_reached(version)
            yield DeployLive(model=await platform.model_status(record.spec.name), reused=reused)


async def _event_lines(platform: Services, spec: ModelSpec, request_id: str) -> AsyncGenerator[str]:
    """One event a line; the last one says how it ended, whatever happened."""
    try:
        async with aclosing(_deploy(platform, spec)) as events:
            async for event in events:
                yield _line(event)
    except PlatformError as error:
        yield _line(DeployFailed(code=error.code, message=error.message))
    except Exception:
        logger.exception("deploy_failed id=%s model=%s", request_id, spec.name)
        unexpected = internal_error(request_id)
        yield _line(DeployFailed(code=unexpected.code, message=unexpected.message))


def _line(event: DeployEvent) -> str:
    return event.model_dump_json() + "\n"
