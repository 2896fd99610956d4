"""The Ray Serve application: gateway, scheduler and worker pool, and how each is deployed."""

from __future__ import annotations

import uuid
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from pilotlight_platform.gateway.gateway import GRACE_S, Gateway
from pilotlight_platform.names import GATEWAY, SCHEDULER, WORKER
from pilotlight_platform.router import WorkerRouter
from pilotlight_platform.scheduler.scheduler import Scheduler
from pilotlight_platform.settings import Settings
from pilotlight_platform.worker.worker import Worker

_MANY = 100_000  # calls at once: the gateway's queues are the bound, Serve's must not be one
_LAST_STREAMS_S = 30.0  # `down` must end within 60 s
_HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 30.0}


def build_app(settings: Settings, redis_url: str, node: str) -> Application:
    """Everything that `pilotlight up` runs on Ray Serve.

    *node*: Ray's resource of the supervisor's node, where the gateway has to be for its socket.
    """
    scheduler = serve.deployment(Scheduler).options(
        name=SCHEDULER,
        num_replicas=1,
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=1.0,  # its calls are held open by design
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0},
        **_HEALTH,
    )
    worker = serve.deployment(Worker).options(
        name=WORKER,
        max_ongoing_requests=_MANY,
        **_size(settings, redis_url),
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": settings.threads_per_worker},
        request_router_config=RequestRouterConfig(request_router_class=WorkerRouter),
        **_HEALTH,
    )
    gateway = serve.deployment(Gateway).options(
        name=GATEWAY,
        num_replicas=1,
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=GRACE_S + 2.0,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0, "resources": {node: 0.001}},
        **_HEALTH,
    )
    # Of this start: what is set while the platform runs survives its scheduler, not itself.
    scheduler_node = scheduler.bind(settings, redis_url, uuid.uuid4().hex)
    worker_node = worker.bind(settings, scheduler_node)
    app: Application = gateway.bind(settings, scheduler_node, worker_node)
    return app


def _size(settings: Settings, redis_url: str) -> dict[str, Any]:
    """A fixed number of workers, or what the scheduler says."""
    pool = settings.pool_config
    if not settings.elastic:
        # The time is always used up: a worker's reports are an endless call.
        return {"num_replicas": pool.max_workers, "graceful_shutdown_timeout_s": 2.0}
    return {
        "autoscaling_config": {
            # The bounds may be changed while it runs: the scheduler keeps to them.
            "min_replicas": 0,
            "max_replicas": settings.most_workers,
            "initial_replicas": pool.min_workers,
            # The decision is the scheduler's, and it has waited already.
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "downscale_to_zero_delay_s": 0,
            "upscaling_factor": 1,
            "downscaling_factor": 1,
            "look_back_period_s": 1.0,
            "metrics_interval_s": 0.2,
            "policy": {
                "policy_function": "pilotlight_platform.pool_policy:SnapshotPolicy",
                "policy_kwargs": {"url": redis_url},
            },
        },
        # Only for a busy worker that Serve takes although it was not foreseen.
        "graceful_shutdown_timeout_s": _LAST_STREAMS_S,
    }
