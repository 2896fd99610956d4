"""uvicorn on a socket that is there already, on the event loop that runs already."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway.bounded_protocol import BoundedProtocol

_KEEP_ALIVE_S = 75


class HttpServer:
    """Serves *app* from start() until stop(); running requests are given *grace_s* then."""

    def __init__(self, app: ASGIApp, grace_s: int) -> None:
        # uvicorn wraps the app in a tracer unless this logger has a level.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
            lifespan="on",
            ws="none",
            access_log=False,
            log_config=None,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    def start(self, listening: socket.socket) -> None:
        """Begin to accept on *listening*, which is closed with the server."""
        self._serving = asyncio.create_task(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        try:
            await self._server.serve([listening])
        except SystemExit as error:  # uvicorn's answer to an app that does not start
            raise PlatformError("the gateway's app did not start; its log says why") from error

    @property
    def alive(self) -> bool:
        return self._serving is not None and not self._serving.done()

    async def stop(self) -> None:
        """Accept no more, let requests end, then end those that have not. Idempotent."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to Ray, whose process this is."""
        yield
