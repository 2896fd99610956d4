"""Settings that Ray Serve and others have and we have not: why, and what stands in their place."""

from __future__ import annotations

import re

_WINDOWS = "loads are averaged over panic.stable_window_s and panic.window_s"
_DRAINS = "a busy replica gets no new requests and goes with its last stream, however long it takes"
_NOTICED = "a worker that dies is noticed at once"
_BYTES = (
    "a replica takes its bytes of weights and one of PILOTLIGHT_WORKER_MAX_REPLICAS of a worker"
)
_WEIGHT = (
    "keep_alive.cold_start_weight says it in worker-seconds: what a request's second of waiting "
    "costs, divided by what a worker's second costs"
)

_NODES = "placement.spread puts replicas on different nodes first; a worker holds one of a model"

_TOP = {"autoscaling_config", "model"}  # what stands in their place is a field of the file itself

_INSTEAD = {
    "aggregation_function": _WINDOWS,
    "allow_unbounded_queue": "each queue has a bound, max_queued_requests",
    "autoscaling_config": "autoscaling is the name here",
    "downscale_smoothing_factor": "downscaling_factor is the name here",
    "downscale_to_zero_delay_s": "idle_timeout_s is the name here; auto goes by what idling costs",
    "external_scaler_enabled": "`pilotlight autoscaling set` changes a live model's settings",
    "gpu_type": _BYTES,
    "gpu_usd_per_hour": _WEIGHT,
    "gpus_per_replica": _BYTES,
    "graceful_shutdown_timeout_s": _DRAINS,
    "graceful_shutdown_wait_loop_s": _DRAINS,
    "health_check_period_s": _NOTICED,
    "health_check_timeout_s": _NOTICED,
    "initial_replicas": "with Ray it becomes a floor that keeps a model from zero (#62682); "
    "min_replicas is the floor, and prewarm.on_deploy starts one replica at a deploy",
    "label_selector": "a replica may go to any worker; " + _NODES,
    "look_back_period_s": _WINDOWS,
    "max_concurrent_queries": "max_ongoing_requests is the name here",
    "max_replicas_per_node": _NODES,
    "max_gpu_share": "pool.max_prewarm_share of the cluster file is the name here",
    "metrics_interval_s": "nothing is sampled: the policy is told of requests as they come",
    "model": "name is the name here",
    "num_gpus": _BYTES,
    "num_replicas": "equal min_replicas and max_replicas are a fixed number",
    "policy": "there is one policy; `pilotlight simulate` compares it with others",
    "ray_actor_options": _BYTES,
    "resources": _BYTES,
    "smoothing_factor": "upscaling_factor and downscaling_factor are the names here",
    "target_num_ongoing_requests_per_replica": "target_ongoing_requests is the name here",
    "upscale_smoothing_factor": "upscaling_factor is the name here",
    "wait_cost_usd_per_s": _WEIGHT,
    "weight_cache": "PILOTLIGHT_ARENA_BYTES is memory that keeps the weights of all models; the "
    "disk has them anyway",
}


def instead_of(key: str, *, top: bool = True) -> str | None:
    """Why there is no *key* and what to write instead; None of a key that nobody has.

    *top*: it stands at the top of the file, not inside of a block.
    """
    name = plain_key(key)
    return None if name in _TOP and not top else _INSTEAD.get(name)


def plain_key(key: str) -> str:
    """``upscale_delay_s`` of ``upscaleDelayS`` and ``Upscale-Delay-s``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return re.sub(r"[^a-z0-9]+", "_", words.lower())
