"""What people do today: a Ray Serve deployment that loads a model with transformers, from zero.

Written and configured as Ray's and transformers' own documentation advises. It runs in the same
Ray cluster, behind Ray Serve's proxy, with the same number of threads as the platform.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve import Application

from pilotlight_deploy.bench.token_queue import TokenQueue

_api = FastAPI()


@serve.ingress(_api)
class TransformersModel:
    """One causal language model behind /v1/completions, streamed token by token."""

    def __init__(self, path: str, threads: int) -> None:
        # Inside, as on a platform whose other deployments do not need them.
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        torch.set_num_threads(threads)
        self._torch = torch
        self._threads = threads
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()

    @_api.post("/v1/completions")
    async def complete(self, request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(
            self._stream(body["prompt"], body["max_tokens"]), media_type="text/event-stream"
        )

    async def _stream(self, prompt: list[int], max_tokens: int) -> AsyncIterator[str]:
        tokens = TokenQueue()
        work = Thread(target=self._generate, args=(prompt, max_tokens, tokens))
        work.start()
        while (token := await tokens.queue.get()) is not None:
            yield f"data: {json.dumps({'choices': [{'token': token}]})}\n\n"
        work.join()
        yield "data: [DONE]\n\n"

    def _generate(self, prompt: list[int], max_tokens: int, tokens: TokenQueue) -> None:
        # A thread's OpenMP pool is its own, so its size is set in the thread that computes.
        self._torch.set_num_threads(self._threads)
        try:
            with self._torch.inference_mode():
                self._model.generate(
                    self._torch.tensor([prompt]),
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    streamer=tokens,
                    pad_token_id=0,
                )
        finally:
            tokens.end()


# Ray Serve's own advice for a fast scale from zero: look back shortly, measure often, do not wait.
TUNED = {
    "min_replicas": 0,
    "max_replicas": 1,
    "target_ongoing_requests": 2,
    "look_back_period_s": 1.0,
    "metrics_interval_s": 0.2,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 2.0,
    "downscale_to_zero_delay_s": 2.0,
}
# All defaults, but for the way down: ten minutes of waiting between two runs show nothing.
DEFAULTS = {"min_replicas": 0, "max_replicas": 1, "downscale_delay_s": 2.0}


def build_peer(path: Path, threads: int, autoscaling: dict[str, Any]) -> Application:
    """The peer for the checkpoint at *path*, with *autoscaling* as Ray Serve's own settings."""
    deployment = serve.deployment(TransformersModel).options(
        autoscaling_config=autoscaling,
        max_ongoing_requests=8,
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": threads},
    )
    application: Application = deployment.bind(str(path), threads)
    return application


def running_replicas(application: str) -> int:
    """Replicas of *application* in any state but gone."""
    deployments = serve.status().applications[application].deployments
    return sum(sum(states.replica_states.values()) for states in deployments.values())
