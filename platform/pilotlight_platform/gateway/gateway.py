"""The gateway: a Ray Serve deployment that answers HTTP by itself."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway.app import create_app
from pilotlight_platform.gateway.http_server import HttpServer
from pilotlight_platform.gateway.services import Services
from pilotlight_platform.listening import borrow
from pilotlight_platform.settings import Settings

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
        self._server.start(borrow(settings.run_dir))

    def check_health(self) -> None:
        """Serve asks each second, and replaces a gateway that does not serve."""
        if not self._server.alive:
            raise PlatformError("the gateway's HTTP server has ended")

    async def __del__(self) -> None:
        """Serve calls this when it stops the deployment."""
        await self._server.stop()
