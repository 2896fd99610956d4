"""The process that owns a platform on this machine: Redis, Ray, Ray Serve, and their end."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx
import psutil
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pilotlight_platform.address import (
    PlatformAddress,
    read_address,
    remove_address,
    write_address,
)
from pilotlight_platform.errors import MachineError, PlatformError
from pilotlight_platform.host_memory import host_memory
from pilotlight_platform.listening import lent, listen
from pilotlight_platform.names import APP, SCHEDULER
from pilotlight_platform.preflight import check_machine, home_lock
from pilotlight_platform.serve_app import build_app
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.embedded import EmbeddedRedis

_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_RAY_EXIT_TIMEOUT_S = 10.0
_DYING_RAY_S = 5.0  # a killed platform's Ray goes within 4 s
_SAVE_TIMEOUT_S = 5.0
_POLL_S = 0.1
_LOOPBACK = "127.0.0.1"
_STATUS_STEP_S = 1.0
_READY_STEP_S = 1.0  # the socket takes a connection long before a gateway answers it

# Ours is async throughout, so Serve's extra threads for blocking user code only add hand-overs
# between threads: without them a cold request to a tiny model takes 30 ms instead of 36, a warm
# one 18 instead of 24 (median of 8, two cores).
_RAY_ENVIRONMENT = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

logger = logging.getLogger("pilotlight.supervisor")

Progress = Callable[[str], None]
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_platform(
    settings: Settings,
    on_ready: Callable[[PlatformAddress], None],
    on_progress: Progress = lambda message: None,
) -> None:
    """Run a platform until SIGINT or SIGTERM, then stop it cleanly. Blocks.

    A second signal ends the process at once; the kernel and Ray's reaper clear up after it.
    Raises MachineError with one line that says what is in the way.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(home_lock(settings))
        stack.enter_context(_signals(stop))
        check_machine(settings, patience_s=_DYING_RAY_S, on_progress=on_progress)
        listening = stack.enter_context(closing(listen(settings)))
        stack.enter_context(lent(listening, settings.run_dir))
        stack.enter_context(host_memory(settings, stop, on_progress))
        on_progress("starting Redis")
        url = settings.redis_url or stack.enter_context(EmbeddedRedis(settings.redis_dir)).url
        on_progress("starting Ray")
        stack.enter_context(_ray(settings))
        _handle_signals(stop)  # again: ray.init puts a handler of its own
        _check_cluster(settings)
        if not stop.is_set():
            on_progress("starting gateway, scheduler and workers")
            stack.enter_context(_serve(settings, url))
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


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    _handle_signals(stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _handle_signals(stop: threading.Event) -> None:
    """The first signal sets *stop*; one after that ends the process."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in _STOP_SIGNALS:
        signal.signal(number, handle)


@contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    for name, value in _RAY_ENVIRONMENT.items():  # inherited by all of Ray's processes
        os.environ.setdefault(name, value)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if settings.ray_address is None:
            # The workers' threads, and two for whatever else is run on this Ray.
            cpus = settings.max_workers * settings.threads_per_worker + 2
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=settings.object_store_bytes,
                include_dashboard=False,
                _node_ip_address=_LOOPBACK,  # else Ray's own ports are open to the network
                **quiet,
            )
        else:
            _join_ray(settings.ray_address, quiet)
        yield
    finally:
        processes = psutil.Process().children(recursive=True)
        ray.shutdown()
        # Ray does not wait for its own; the next start must not find them still going.
        _, left = psutil.wait_procs([p for p in processes if _is_rays(p)], _RAY_EXIT_TIMEOUT_S)
        for process in left:
            process.kill()


def _join_ray(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        raise MachineError(
            f"no Ray cluster answers at {address}: start one with `ray start --head`, or leave "
            "out --ray-address; if it asks for a token, set RAY_AUTH_MODE=token"
        ) from error


def _is_rays(process: psutil.Process) -> bool:
    try:
        return any("/ray/" in word or "ray::" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _check_cluster(settings: Settings) -> None:
    """Raises MachineError if the cluster that was joined cannot run the platform."""
    if settings.ray_address is None:
        return
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and settings.redis_url is None:
        raise MachineError(
            f"the Ray cluster has {nodes} nodes, and the embedded Redis is for one: give "
            "--redis-url, and a --home that all nodes share"
        )


def _serve_is_running() -> bool:
    status = serve.status()
    return bool(status.proxies or status.applications)


@contextmanager
def _serve(settings: Settings, redis_url: str) -> Iterator[None]:
    joined = settings.ray_address is not None and _serve_is_running()
    try:
        try:
            _start_serve(settings)
            app = build_app(settings, redis_url, _own_node())
            serve.run_many(
                [serve.RunTarget(app, name=APP, route_prefix=None)],
                # It would wait without bound: _wait_until_ready does instead.
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        except (RuntimeError, TimeoutError, RayServeException, RayError) as error:
            raise PlatformError(f"Ray Serve could not start the platform: {error}") from error
        yield
        _save_learned()
    finally:
        _end_serve(settings, joined)


def _start_serve(settings: Settings) -> None:
    """Its proxy, which the gateway does not need, only where somebody asks for it."""
    if settings.serve_port is None:
        serve.start(proxy_location="Disabled")
    else:
        http = {"host": _LOOPBACK, "port": settings.serve_port}
        serve.start(proxy_location="HeadOnly", http_options=http)


def _own_node() -> str:
    """Ray's resource that only the node of this process has."""
    own = ray.get_runtime_context().get_node_id()
    address = next(n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == own)
    return f"node:{address}"


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


def _wait_until_ready(settings: Settings, stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    next_status = time.monotonic() + _STATUS_STEP_S
    reason: str | None = None
    with httpx.Client(base_url=_url(settings), timeout=_READY_STEP_S, trust_env=False) as client:
        while time.monotonic() < deadline and not stop.is_set():
            reason = _not_ready(client)
            if reason is None or time.monotonic() >= next_status:
                # Also where the gateway is ready: on a joined cluster it may be an older one.
                problem = _serve_problem()
                if reason is None and problem is None:
                    return
                reason = problem or reason
                next_status = time.monotonic() + _STATUS_STEP_S
            stop.wait(_POLL_S)
        if not stop.is_set():
            reason = _serve_problem() or reason
            raise PlatformError(
                f"the platform was not ready within {_READY_TIMEOUT_S:g} s: {reason}"
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


def _serve_problem() -> str | None:
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


def start_detached(settings: Settings, on_progress: Progress) -> PlatformAddress:
    """Start a platform in the background; returns when it is ready.

    Raises MachineError with the child's own line if it could not start.
    """
    log_path = settings.log_dir / "platform.log"
    log = _open_log(settings, log_path)
    reader, writer = os.pipe()
    with log, os.fdopen(reader, "rb") as events:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "pilotlight_platform.daemon", str(writer)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)
        # It outlives us; if we outlive it, it is reaped.
        threading.Thread(target=child.wait, name="reap-platform", daemon=True).start()
        assert child.stdin is not None
        with child.stdin as stdin:
            # Not in the arguments: other users can read those, and the API key is among them.
            stdin.write(settings.model_dump_json().encode())
        try:
            address = _follow_start(events, on_progress)
        except BaseException:  # interrupted while it starts: leave nothing half started
            child.terminate()
            raise
    if address is None:
        child.terminate()
        raise MachineError(f"the platform did not start: see {log_path}")
    return address


def _open_log(settings: Settings, path: Path) -> IO[bytes]:
    try:
        settings.create_directories()
        return open(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab")
    except OSError as error:
        raise MachineError(
            f"{settings.home} cannot be written ({error.strerror}): choose another with --home"
        ) from error


def _follow_start(events: IO[bytes], on_progress: Progress) -> PlatformAddress | None:
    deadline = time.monotonic() + _READY_TIMEOUT_S + 60.0
    while (left_s := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([events], [], [], left_s)
        line = events.readline() if readable else b""
        if not line:
            return None
        event = json.loads(line)
        if event["event"] == "progress":
            on_progress(event["message"])
        elif event["event"] == "error":
            raise MachineError(event["message"])
        else:
            return read_address(Path(event["home"]))
    return None


def stop_platform(home: Path, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
    """Stop the platform of *home* and wait until it has gone; False if none was running.

    Raises MachineError if it does not go in time.
    """
    address = read_address(home)
    if address is None:
        return False
    # A pidfd waits for a process that is not our child, and cannot mean another one by reuse.
    try:
        descriptor = os.pidfd_open(address.pid)
    except ProcessLookupError:
        return False
    try:
        if read_address(home) != address:  # it ended meanwhile: the pid may be another's
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        readable, _, _ = select.select([descriptor], [], [], timeout_s)
    finally:
        os.close(descriptor)
    if not readable:
        raise MachineError(f"the platform (pid {address.pid}) did not stop in {timeout_s:g} s")
    return True
