"""Choosing the next token from logits. Pure: the only state is the generator that is handed in.

Shapes: V vocabulary. Everything is computed in float32, whatever the model's type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pilotlight_platform.errors import EngineError
from pilotlight_platform.schemas.generation import SamplingParams

# The nucleus rarely has more tokens, and sorting a whole vocabulary takes milliseconds.
_NUCLEUS_GUESS = 512
# Only ties are left to chance there, and a temperature that float32 rounds to 0 would give NaN.
_GREEDY_BELOW = 1e-4


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probability of the chosen token and of the best ones, before temperature."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # (token id, logprob), best first


def make_generator(seed: int | None) -> torch.Generator:
    """A request's own source of randomness, so that neighbours in the batch change nothing."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def choose(
    logits: torch.Tensor,  # [V]
    params: SamplingParams,
    generator: torch.Generator,
) -> int:
    """The next token; greedy at temperatures below 1e-4.

    Raises:
        EngineError: if a logit is NaN or infinite, which would sample nonsense silently.
    """
    # Of 32,000 bf16 logits: 4 µs by their extremes, which NaN is, too, and 71 by isfinite().all();
    # argmax 21 µs in float32, which has the same order, and 104 in bf16.
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(logits)):
        bad = int((~torch.isfinite(logits)).sum())
        raise EngineError(f"the model returned NaN or infinite logits ({bad} of {len(logits)})")
    if params.temperature < _GREEDY_BELOW:
        return int(logits.float().argmax())
    probabilities = distribution(logits, params)
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


def distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities [V] after temperature, then `top_k`, then `top_p`; they sum to 1."""
    scores = logits.float()
    # The maximum goes first: dividing by a tiny temperature must not overflow to inf - inf.
    scores = (scores - scores.max()) / params.temperature
    if 0 < params.top_k < scores.shape[-1]:
        best = scores.topk(params.top_k)
        scores = torch.full_like(scores, -torch.inf).scatter(-1, best.indices, best.values)
    probabilities = scores.softmax(-1)
    return _nucleus(probabilities, params.top_p) if params.top_p < 1 else probabilities


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set that reaches *top_p*: a token stays while those before it fall short.

    The best one always stays.
    """
    best = probabilities.topk(min(_NUCLEUS_GUESS, len(probabilities)))
    if float(best.values.sum()) < top_p:
        best = probabilities.topk(len(probabilities))
    short = best.values.cumsum(-1) - best.values < top_p
    short[0] = True
    kept = best.values * short
    return torch.zeros_like(probabilities).scatter(-1, best.indices, kept / kept.sum())


def logprobs(logits: torch.Tensor, chosen: int, alternatives: int) -> Logprobs:
    """Log-softmax of the raw logits [V]: what the model thought, not what sampling made of it."""
    scores = logits.float().log_softmax(-1)
    top = scores.topk(min(alternatives, scores.shape[-1]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Logprobs(float(scores[chosen]), tuple(pairs))
