"""Errors as the OpenAI API writes them. The one place where an error becomes a status."""

from __future__ import annotations

import math
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pilotlight_autoscaler.foreign_keys import instead_of
from pilotlight_platform.errors import (
    DeployError,
    InvalidRequestError,
    OverloadedError,
    PlatformError,
    RequestError,
)

_HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}


def error_body(error: PlatformError) -> dict[str, Any]:
    """``{"error": {...}}`` for a response or for the last event of a stream."""
    param = error.param if isinstance(error, InvalidRequestError) else None
    return _body(
        error.message, error.code, param, ours=not isinstance(error, RequestError | DeployError)
    )


def _body(message: str, code: str, param: str | None, *, ours: bool) -> dict[str, Any]:
    return {
        "error": {
            "message": _encodable(message),
            "type": "server_error" if ours else "invalid_request_error",
            "param": None if param is None else _encodable(param),
            "code": code,
        }
    }


def _encodable(text: str) -> str:
    """Messages quote what was sent, and JSON can carry half a character."""
    return text.encode(errors="backslashreplace").decode()


def internal_error(request_id: str) -> PlatformError:
    """What a caller is told of an exception that nobody expected; the log has the rest."""
    return PlatformError(f"internal error; see the platform's log (request id {request_id})")


def error_response(error: PlatformError) -> JSONResponse:
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


async def on_platform_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlatformError)
    return error_response(error)


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's 422 becomes OpenAI's 400, with the first problem in words."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body" and not _is_tag(part))
    if first["type"] == "json_invalid":
        message = f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        return error_response(InvalidRequestError(message))
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        instead = instead_of(str(first["loc"][-1]), top=len(first["loc"]) == 2)
        what = f"unknown key; {instead}" if instead else what
    if where:
        return error_response(InvalidRequestError(f"{where}: {what}", where))
    if not request.headers.get("content-type", "").startswith("application/json"):
        message = "The body is read as JSON only with the header Content-Type: application/json."
        return error_response(InvalidRequestError(message))
    if first["type"] == "value_error":  # ours: they begin with the field's name
        return error_response(InvalidRequestError(what, what.partition(":")[0]))
    return error_response(InvalidRequestError(f"The body: {what}."))


def _is_tag(part: str | int) -> bool:
    """Pydantic puts the alternative of a union that was tried behind the field's name."""
    return isinstance(part, str) and (part == "str" or "[" in part)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """No such path, wrong method, a body that cannot be decoded."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    code = _HTTP_CODES.get(status, f"http_{status}")
    return JSONResponse(_body(message, code, None, ours=status >= 500), status, error.headers)
