"""Ray under a platform: one of its own on this machine, or a cluster that it joins."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray

from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings

_RAY_EXIT_TIMEOUT_S = 10.0
_LOOPBACK = "127.0.0.1"

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


@contextmanager
def running_ray(settings: Settings) -> Iterator[None]:
    """Start Ray, or join the cluster of ``ray_address``; raises MachineError if none answers."""
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


def check_cluster(settings: Settings) -> None:
    """Raises MachineError if the cluster that was joined cannot run the platform."""
    if settings.ray_address is None:
        return
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and settings.redis_url is None:
        raise MachineError(
            f"the Ray cluster has {nodes} nodes, and the embedded Redis is for one: give "
            "--redis-url, and a --home that all nodes share"
        )


def own_node() -> str:
    """Ray's resource that only the node of this process has."""
    own = ray.get_runtime_context().get_node_id()
    address = next(n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == own)
    return f"node:{address}"
