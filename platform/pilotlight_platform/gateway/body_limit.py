"""Refuses bodies over a limit before they are read into memory."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilotlight_platform.errors import BodyTooLargeError
from pilotlight_platform.gateway.error_responses import error_response

_MAX_DIGITS = 18


class BodyLimit:
    """ASGI middleware: 413 by Content-Length, or while a body without one is being read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._fits(Headers(scope=scope).get("content-length", "0")):
            await self._watched(scope, receive, send)
        else:
            await error_response(self._error())(scope, receive, send)

    def _fits(self, declared: str) -> bool:
        readable = declared.isdecimal() and len(declared) <= _MAX_DIGITS
        return readable and int(declared) <= self._max_bytes

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0
        started = False

        def refused() -> bool:
            return seen > self._max_bytes and not started

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._error()
            return message

        async def held(message: Message) -> None:
            # FastAPI answers 400 to whatever reading the body raises: 413 goes out in its place.
            nonlocal started
            if not refused():
                started = True
                await send(message)

        try:
            await self._app(scope, counted, held)
        except Exception:
            if not refused():
                raise
        if refused():
            await error_response(self._error())(scope, receive, send)

    def _error(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The body is larger than {self._max_bytes} bytes (PILOTLIGHT_MAX_BODY_BYTES)."
        )
