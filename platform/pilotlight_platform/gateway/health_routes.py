"""Health: open to probes, and waking nothing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from pilotlight_platform.gateway.openai_routes import Platform

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The gateway runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(platform: Platform, response: Response) -> dict[str, Any]:
    """200 once the scheduler is reached and a worker is warm, else 503 with the reason."""
    table = platform.admission.table
    reason = None
    if table.version < 0:
        reason = "the scheduler is not reached"
    elif not table.workers and platform.settings.pool_config.min_workers:
        reason = "no worker is warm yet"
    response.status_code = 200 if reason is None else 503
    return {"ready": reason is None, "workers": len(table.workers), "reason": reason}
