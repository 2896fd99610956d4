"""What travels between gateway and worker: a request one way, chunks of its answer the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotlight_platform.schemas.timeline import Span


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. ``temperature == 0`` is greedy; ``top_k == 0`` keeps all."""

    max_tokens: int | None = None  # None: until the context is full
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # number of alternatives to report; None: none at all
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Exactly one of ``prompt`` (text), ``prompt_tokens`` and ``messages`` (chat) is set."""

    request_id: str
    revision_id: str
    sampling: SamplingParams
    prompt: str | None = None
    prompt_tokens: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    max_context_tokens: int | None = None  # besides the model's own bound


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One emitted token, its log-probability before temperature, and the best alternatives."""

    token_id: int
    text: str
    token_bytes: bytes
    logprob: float
    top: tuple[tuple[int, str, bytes, float], ...] = ()  # (token id, text, bytes, logprob)


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of the answer. The first carries the cold spans, the last the finish reason."""

    text: str
    tokens: int  # tokens generated since the last chunk (their text may be held back)
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int | None = None  # on the first chunk
    finish_reason: str | None = None  # "stop" | "length", on the last chunk
    spans: tuple[Span, ...] = ()
