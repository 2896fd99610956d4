"""A skeleton's first prompt and first forward, before anybody waits for them."""

from __future__ import annotations

import logging
import queue

from pilotlight_loader import LoaderError, StandInCheckpoint
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.prompt import encode_prompt
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
)

logger = logging.getLogger(__name__)

_PROMPT_TOKENS = 16
_TIMEOUT_S = 60.0


def rehearse(engine: Engine, skeleton: Skeleton) -> None:
    """Run *skeleton* once on stand-in weights, on the compute thread; reads no weights.

    The kernels of a model's shapes are generated at their first use, per process and thread count.
    Best effort: what fails here fails, or works, on the real weights.
    """
    _encode(skeleton)
    tokens = min(_PROMPT_TOKENS, (skeleton.context_length or _PROMPT_TOKENS + 2) - 2)
    if tokens < 1:
        return
    request = GenerationRequest(
        "rehearsal",
        "",
        SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True),
        prompt_tokens=(0,) * tokens,
    )
    try:
        replica = Replica.attach(skeleton, StandInCheckpoint(skeleton.baked))
    except (LoaderError, PlatformError) as error:
        logger.warning("rehearsal_skipped directory=%s reason=%s", skeleton.directory, error)
        return
    try:
        _run(engine, replica, request)
    finally:
        engine.drop(replica)
        replica.detach()


def _encode(skeleton: Skeleton) -> None:
    """Read a message as the first request will be read.

    Compiling a chat template, with what it imports, took 11 ms of a cold start (transformers 5).
    The bake has tried it on such a message, within a bound of time.
    """
    if skeleton.tokenizer is None:
        return
    message = {"role": "user", "content": "Hello"}
    request = GenerationRequest("rehearsal", "", SamplingParams(), messages=(message,))
    try:
        encode_prompt(skeleton, request)
    except PlatformError as error:
        logger.info("rehearsal_prompt directory=%s reason=%s", skeleton.directory, error)


def _run(engine: Engine, replica: Replica, request: GenerationRequest) -> None:
    answers: queue.SimpleQueue[GenerationChunk | PlatformError] = queue.SimpleQueue()
    ticket = engine.submit(replica, request, answers.put)
    try:
        while True:
            answer = answers.get(timeout=_TIMEOUT_S)
            if isinstance(answer, PlatformError) or answer.finish_reason is not None:
                return
    except queue.Empty:
        logger.warning("rehearsal_timeout directory=%s", replica.skeleton.directory)
    finally:
        ticket.cancel()
