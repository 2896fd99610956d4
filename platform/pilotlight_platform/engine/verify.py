"""Does a baked checkpoint answer like its source? Asked once, before it can go live."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import PlatformError, VerificationError
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
)

_PROMPT_TOKENS = 8
_ANSWER_TOKENS = 4

# Same weights and same kernels (hasten_products()) give the same bits; this leaves room for kernels
# that choose their blocking by where a tensor lies in memory.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# The source's weights are the dequantized ones, rounded to its dtype; the kernels round elsewhere:
# activations to 15 bits at most, so that float32 is no better than this.
_QUANTIZED_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 6e-2, torch.float16: 2e-2}


def probe_prompt(vocab_size: int) -> list[int]:
    """A fixed prompt, spread over the vocabulary."""
    return [(11 + 7919 * position) % vocab_size for position in range(_PROMPT_TOKENS)]


def verify(
    directory: Path,
    source: Any,
    report: Callable[[Literal["verify"], str, int, int], None],
    *,
    packed: bool = False,
    quantized: bool = False,
) -> None:
    """Attach the checkpoint in *directory* as a worker would and compare it with *source*, which
    multiplies as a worker does: hasten_products().

    *packed*: the file for this CPU's kernel, else the one for any. *quantized*: the source has
    the dequantized weights. A source in fewer than 32 bits need not choose the same token of two
    that are as good as equal: a worker sums up in another order (attention.py, row_product.py).
    The source loses its generation config.

    Raises:
        VerificationError: if logits or greedy tokens differ, or the model cannot run at all.
    """
    what = "the weights for this CPU's kernel" if packed else "the weights"
    report("verify", f"comparing {what} with the source", 0, 0)
    prompt = probe_prompt(source.get_input_embeddings().num_embeddings)
    try:
        skeleton = Skeleton.load(directory, packed=packed)
        replica = Replica.attach(skeleton)
    except PlatformError as error:
        raise VerificationError(error.message) from error
    try:
        if packed and not skeleton.baked.packed:
            raise VerificationError("a worker would not take them")
        tolerance = (_QUANTIZED_TOLERANCE if quantized else _TOLERANCE).get(source.dtype, 1e-4)
        _compare_logits(source, skeleton.module, prompt, tolerance)
        answer = _engine_answer(replica, prompt)
        if quantized or source.dtype is not torch.float32:
            _compare_choices(source, prompt, answer, tolerance)
        else:
            _compare_tokens(_source_answer(source, prompt), answer)
    finally:
        replica.detach()
    report("verify", "answers like its source", 1, 1)


def _compare_logits(source: Any, module: Any, prompt: list[int], tolerance: float) -> None:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        expected = source(input_ids=ids).logits[0, -1].float()
        actual = module(input_ids=ids).logits[0, -1].float()
    if not bool(torch.isfinite(expected).all()):
        raise VerificationError("the source's own logits are NaN or infinite; try another dtype")
    scale = float(expected.abs().max())
    worst = float((expected - actual).abs().max())
    if not worst <= tolerance * max(scale, 1.0):
        raise VerificationError(f"logits differ from the source's by up to {worst:.3g}")


def _compare_tokens(expected: list[int], actual: list[int]) -> None:
    if expected != actual:
        raise VerificationError(f"answers {actual} where the source answers {expected}")


def _compare_choices(source: Any, prompt: list[int], answer: list[int], tolerance: float) -> None:
    """Each token of *answer* must be one that the source, given those before it, could choose."""
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *answer]])
        logits = source(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
    best = logits.amax(1)
    # Twice: both logits may be off by it.
    if not bool((best - chosen <= 2 * tolerance * logits.abs().amax(1).clamp_min(1.0)).all()):
        _compare_tokens(logits.argmax(1).tolist(), answer)


def _source_answer(source: Any, prompt: list[int]) -> list[int]:
    source.generation_config = GenerationConfig(
        max_new_tokens=_ANSWER_TOKENS, do_sample=False, pad_token_id=0
    )
    ids = torch.tensor([prompt])
    answer = source.generate(ids, attention_mask=torch.ones_like(ids))[0, len(prompt) :]
    return [int(token) for token in answer]


def _engine_answer(replica: Replica, prompt: list[int]) -> list[int]:
    sampling = SamplingParams(
        max_tokens=_ANSWER_TOKENS,
        temperature=0.0,
        logprobs=0,  # they carry the token ids
        ignore_eos=True,
    )
    request = GenerationRequest("verify", "verify", sampling, prompt_tokens=tuple(prompt))
    items: queue.SimpleQueue[GenerationChunk | PlatformError] = queue.SimpleQueue()
    tokens: list[int] = []
    with Engine(torch.get_num_threads()) as engine:
        engine.submit(replica, request, items.put)
        while True:
            item = items.get()
            if isinstance(item, PlatformError):
                raise VerificationError(item.message) from item
            tokens += [logprob.token_id for logprob in item.logprobs]
            if item.finish_reason is not None:
                return tokens
