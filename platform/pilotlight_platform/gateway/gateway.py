"""The gateway: a Ray Serve deployment that answers HTTP by itself."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from ray.serve.handle import DeploymentHandle

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway.app import create_app
from pilotlight_platform.gateway.http_server import HttpServer
from pilotlight_platform.gateway.services import Services
from pilotlight_platform.listening import borrow
from pilotlight_platform.settings import Settings

logger = logging.getLogger("pilotlight.gateway")

GRACE_S = 4  # for requests that run when the platform stops


class Gateway:
    """Listens on the supervisor's socket, not behind Serve's proxy: each request and each token
    would make one hop more, between two processes that both have to wake up for it.
    """

    def __init__(
        self, settings: Settings, scheduler: DeploymentHandle, worker: DeploymentHandle
    ) -> None:
        app = create_app(settings, lambda: Services.create(settings, scheduler, worker))
        self._server = HttpServer(app, GRACE_S)
        listening, owner = borrow(settings.run_dir)
        self._server.start(listening)
        self._orphaned = asyncio.create_task(self._stop_with(owner))

    def check_health(self) -> None:
        """Serve asks each second, and replaces a gateway that does not serve."""
        if not self._server.alive:
            raise PlatformError("the gateway's HTTP server has ended")

    async def _stop_with(self, owner: socket.socket) -> None:
        """Let go of the port when the supervisor has died: the next one wants it."""
        with owner:
            owner.setblocking(False)
            with suppress(OSError):
                await asyncio.get_running_loop().sock_recv(owner, 1)
        logger.warning("supervisor_lost")
        await self._server.stop()

    async def __del__(self) -> None:
        """Serve calls this when it stops the deployment."""
        await self._server.stop()
