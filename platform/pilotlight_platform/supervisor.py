"""The process that owns a platform on this machine: Redis, Ray, Ray Serve, and their end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import httpx
import ray

from pilotlight_platform.address import PlatformAddress, remove_address, write_address
from pilotlight_platform.background import READY_TIMEOUT_S
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.host_memory import host_memory
from pilotlight_platform.listening import lent, listen
from pilotlight_platform.preflight import check_machine, home_lock
from pilotlight_platform.ray_cluster import check_cluster, running_ray
from pilotlight_platform.serve_lifetime import running_serve, serve_problem
from pilotlight_platform.settings import Settings
from pilotlight_platform.stop_signals import handle_stop_signals, stop_signals
from pilotlight_platform.store.embedded import EmbeddedRedis

OnProgress = Callable[[str], None]

_DYING_RAY_S = 5.0  # a killed platform's Ray goes within 4 s
_POLL_S = 0.1
_LOOPBACK = "127.0.0.1"
_STATUS_STEP_S = 1.0
_READY_STEP_S = 1.0  # the socket takes a connection long before a gateway answers it


def run_platform(
    settings: Settings,
    on_ready: Callable[[PlatformAddress], None],
    on_progress: OnProgress = lambda message: None,
) -> None:
    """Run a platform until SIGINT or SIGTERM, then stop it cleanly. Blocks.

    A second signal ends the process at once; the kernel and Ray's reaper clear up after it.
    Raises MachineError with one line that says what is in the way.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(home_lock(settings))
        stack.enter_context(stop_signals(stop))
        check_machine(settings, patience_s=_DYING_RAY_S, on_progress=on_progress)
        listening = stack.enter_context(closing(listen(settings)))
        stack.enter_context(lent(listening, settings.run_dir))
        stack.enter_context(host_memory(settings, stop, on_progress))
        on_progress("starting Redis")
        url = settings.redis_url or stack.enter_context(EmbeddedRedis(settings.redis_dir)).url
        on_progress("starting Ray")
        stack.enter_context(running_ray(settings))
        handle_stop_signals(stop)  # again: ray.init puts a handler of its own
        check_cluster(settings)
        if not stop.is_set():
            on_progress("starting gateway, scheduler and workers")
            stack.enter_context(running_serve(settings, url))
            _run_until_stopped(settings, stop, stack, on_ready)
        on_progress("stopping")


def _run_until_stopped(
    settings: Settings,
    stop: threading.Event,
    stack: ExitStack,
    on_ready: Callable[[PlatformAddress], None],
) -> None:
    _wait_until_ready(settings, stop)
    if stop.is_set():
        return
    address = PlatformAddress(
        url=_url(settings),
        pid=os.getpid(),
        started_at_s=time.time(),
        home=str(settings.home),
        ray_address=ray.get_runtime_context().gcs_address,
    )
    write_address(settings.home, address)
    stack.callback(remove_address, settings.home)
    on_ready(address)
    stop.wait()


def _url(settings: Settings) -> str:
    host = _local_host(settings)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _local_host(settings: Settings) -> str:
    return _LOOPBACK if settings.host in {"0.0.0.0", "::"} else settings.host


def _wait_until_ready(settings: Settings, stop: threading.Event) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    next_status = time.monotonic() + _STATUS_STEP_S
    reason: str | None = None
    with httpx.Client(base_url=_url(settings), timeout=_READY_STEP_S, trust_env=False) as client:
        while time.monotonic() < deadline and not stop.is_set():
            reason = _not_ready(client)
            if reason is None or time.monotonic() >= next_status:
                # Also where the gateway is ready: on a joined cluster it may be an older one.
                problem = serve_problem()
                if reason is None and problem is None:
                    return
                reason = problem or reason
                next_status = time.monotonic() + _STATUS_STEP_S
            stop.wait(_POLL_S)
        if not stop.is_set():
            reason = serve_problem() or reason
            raise PlatformError(
                f"the platform was not ready within {READY_TIMEOUT_S:g} s: {reason}"
            )


def _not_ready(client: httpx.Client) -> str | None:
    """Why the gateway is not ready; None if it is."""
    try:
        answer = client.get("/readyz")
        if answer.status_code == 200:
            return None
        return str(answer.json().get("reason", answer.text))
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        return str(error) or type(error).__name__
