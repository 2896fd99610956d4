"""Ray Serve with the platform's application in it: started, looked at, ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.names import APP, SCHEDULER
from pilotlight_platform.ray_cluster import own_node
from pilotlight_platform.serve_app import build_app
from pilotlight_platform.settings import Settings

_SAVE_TIMEOUT_S = 5.0
_LOOPBACK = "127.0.0.1"

logger = logging.getLogger("pilotlight.supervisor")


@contextmanager
def running_serve(settings: Settings, redis_url: str) -> Iterator[None]:
    """Begin to start the application; serve_problem() tells when it runs. Raises PlatformError."""
    joined = settings.ray_address is not None and _serve_is_running()
    try:
        try:
            _start_serve(settings)
            app = build_app(settings, redis_url, own_node())
            serve.run_many(
                [serve.RunTarget(app, name=APP, route_prefix=None)],
                # It would wait without bound: the supervisor does instead.
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        except (RuntimeError, TimeoutError, RayServeException, RayError) as error:
            raise PlatformError(f"Ray Serve could not start the platform: {error}") from error
        yield
        _save_learned()
    finally:
        _end_serve(settings, joined)


def serve_problem() -> str | None:
    """What Ray Serve waits for; None if all of it runs. Raises PlatformError if it gave up."""
    app = serve.status().applications.get(APP)
    if app is None:
        return "Ray Serve has not begun"
    if app.status == "RUNNING":
        return None
    messages = [app.message, *(one.message for one in app.deployments.values())]
    problem = "; ".join(message.strip() for message in messages if message)
    if app.status == "DEPLOY_FAILED":
        raise PlatformError(f"Ray Serve could not start the platform: {problem}")
    return problem or f"Ray Serve says {app.status.value}"


def _serve_is_running() -> bool:
    status = serve.status()
    return bool(status.proxies or status.applications)


def _start_serve(settings: Settings) -> None:
    """Its proxy, which the gateway does not need, only where somebody asks for it."""
    if settings.serve_port is None:
        serve.start(proxy_location="Disabled")
    else:
        http = {"host": _LOOPBACK, "port": settings.serve_port}
        serve.start(proxy_location="HeadOnly", http_options=http)


def _save_learned() -> None:
    """Serve would kill the scheduler in the middle of its open calls."""
    try:
        handle = serve.get_deployment_handle(SCHEDULER, app_name=APP)
        handle.save.remote().result(timeout_s=_SAVE_TIMEOUT_S)
    except Exception as error:  # Ray's and Serve's are many; at most five seconds are lost
        logger.warning("learned_unsaved reason=%s", error)


def _end_serve(settings: Settings, joined: bool) -> None:
    if settings.ray_address is None:
        serve.shutdown()
    elif _serve_is_running():
        serve.delete(APP)
        # A Serve that we started goes with us; the apps of others keep it alive.
        if not joined and not serve.status().applications:
            serve.shutdown()
