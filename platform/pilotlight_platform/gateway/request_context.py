"""What every request has: an id, the time of its arrival, and an answer."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilotlight_platform.errors import InvalidRequestError
from pilotlight_platform.gateway.error_responses import error_response, internal_error

logger = logging.getLogger("pilotlight.gateway")

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestContext:
    """ASGI middleware: ``request.state.{request_id,at_s}``; X-Request-Id and Server-Timing on
    every response.

    A caller's own X-Request-Id is kept, so that ids can cross systems. An exception that nobody
    expected is logged, and answered without its details.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        at_s = time.time()
        started = False
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex
        accepted = _ACCEPTED_ID.fullmatch(request_id) is not None

        async def timed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                if accepted:
                    headers["X-Request-Id"] = request_id
                if "Server-Timing" not in headers:
                    headers["Server-Timing"] = f"total;dur={(time.time() - at_s) * 1e3:.2f}"
            await send(message)

        if not accepted:
            await error_response(_bad_id())(scope, receive, timed)
            return
        scope.setdefault("state", {}).update(request_id=request_id, at_s=at_s)
        try:
            await self._app(scope, receive, timed)
        except Exception:
            if started:
                raise
            logger.exception("request_failed id=%s path=%s", request_id, scope["path"])
            await error_response(internal_error(request_id))(scope, receive, timed)


def _bad_id() -> InvalidRequestError:
    return InvalidRequestError(
        "X-Request-Id: at most 128 letters, digits, '.', '_', ':' or '-'", "X-Request-Id"
    )
