"""The gateway's FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway import admin_routes, health_routes, openai_routes
from pilotlight_platform.gateway.auth import Auth
from pilotlight_platform.gateway.body_limit import BodyLimit
from pilotlight_platform.gateway.disconnects import Disconnects
from pilotlight_platform.gateway.error_responses import (
    on_http_error,
    on_platform_error,
    on_validation_error,
)
from pilotlight_platform.gateway.request_context import RequestContext
from pilotlight_platform.gateway.services import Services
from pilotlight_platform.settings import Settings
from pilotlight_platform.version import __version__


def create_app(settings: Settings, make_services: Callable[[], Services]) -> FastAPI:
    """The application; *make_services* is called when it starts, on its event loop."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = make_services()
        app.state.services = services
        try:
            await services.start()
            yield
        finally:
            await services.close()

    app = FastAPI(title="Pilotlight", version=__version__, lifespan=lifespan)
    # The last one added is the outermost: nothing is read of a request that may not call.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Auth, settings=settings)
    app.add_middleware(RequestContext)
    app.add_middleware(Disconnects)
    app.add_exception_handler(PlatformError, on_platform_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.include_router(health_routes.router)
    app.include_router(openai_routes.router)
    app.include_router(admin_routes.router)
    return app
