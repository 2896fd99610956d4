"""The state of one running request."""

from __future__ import annotations

from dataclasses import replace

import torch

from pilotlight_platform.engine import sampling
from pilotlight_platform.engine.detokenizer import Detokenizer
from pilotlight_platform.engine.prompt import context_of, encode_prompt
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.stop import StopBuffer
from pilotlight_platform.errors import InvalidRequestError
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
)

_UNLIMITED_TOKENS = 32_768  # where neither request nor model sets a limit: nothing runs for ever


class Sequence:
    """Turns logits into tokens, tokens into text, and text into chunks."""

    def __init__(self, skeleton: Skeleton, request: GenerationRequest) -> None:
        """Encode the prompt.

        Raises:
            InvalidRequestError: if the request cannot be served by this model.
        """
        params = request.sampling
        if params.max_tokens is not None and params.max_tokens < 1:
            raise InvalidRequestError("max_tokens: must be at least 1", "max_tokens")
        if params.stop and skeleton.tokenizer is None:
            raise InvalidRequestError("stop: this model has no tokenizer", "stop")
        self.prompt = encode_prompt(skeleton, request)
        self.tokens = list(self.prompt)  # and what was chosen since
        self.length = len(self.prompt)  # tokens whose keys are in the cache, after prefill
        self.finish_reason: str | None = None
        self._params = params
        self._vocabulary = skeleton.vocabulary
        self._eos_ids = frozenset() if params.ignore_eos else skeleton.eos_ids
        self._left = _budget(context_of(skeleton, request), len(self.prompt), params.max_tokens)
        self._generator = sampling.make_generator(params.seed)
        self._stop = StopBuffer(params.stop)
        self._detokenizer = (
            None
            if skeleton.tokenizer is None
            else Detokenizer(skeleton.tokenizer, self.prompt, skeleton.eos_ids)
        )
        self._first = True
        self._unsent_tokens = 0
        self._unsent_logprobs: list[TokenLogprob] = []

    def accept(self, logits: torch.Tensor) -> GenerationChunk | None:
        """Choose the next token from *logits* [V]; a chunk if there is something to show.

        Raises:
            EngineError: if the logits are NaN or infinite.
        """
        token = sampling.choose(logits, self._params, self._generator)
        self.tokens.append(token)
        self._unsent_tokens += 1
        self._left -= 1
        if token in self._eos_ids:  # counted, but neither shown nor listed in the logprobs
            self.finish_reason = "stop"
            return self._chunk(self._rest())
        if self._params.logprobs is not None:
            self._unsent_logprobs.append(self._logprob(logits, token, self._params.logprobs))
        text = self._stop.feed("" if self._detokenizer is None else self._detokenizer.feed(token))
        if self._stop.stopped:
            self.finish_reason = "stop"
        elif self._left == 0:
            self.finish_reason = "length"
            text += self._rest()
        if text or self._first or self.finish_reason:
            return self._chunk(text)
        return None

    def _rest(self) -> str:
        """Text held back by detokenizer and stop strings, at the end of the answer."""
        tail = self._stop.feed("" if self._detokenizer is None else self._detokenizer.flush())
        if self._stop.stopped:
            self.finish_reason = "stop"
        return tail + self._stop.flush()

    def _chunk(self, text: str) -> GenerationChunk:
        chunk = GenerationChunk(
            text=text,
            tokens=self._unsent_tokens,
            logprobs=tuple(self._unsent_logprobs),
            finish_reason=self.finish_reason,
        )
        if self._first:
            chunk = replace(chunk, prompt_tokens=len(self.prompt))
        self._first = False
        self._unsent_tokens = 0
        self._unsent_logprobs = []
        return chunk

    def _logprob(self, logits: torch.Tensor, token: int, alternatives: int) -> TokenLogprob:
        found = sampling.logprobs(logits, token, alternatives)
        return TokenLogprob(
            token,
            *self._text_and_bytes(token),
            found.chosen,
            tuple((other, *self._text_and_bytes(other), value) for other, value in found.top),
        )

    def _text_and_bytes(self, token: int) -> tuple[str, bytes]:
        if self._vocabulary is None:
            return "", b""
        return self._vocabulary.text(token), self._vocabulary.token_bytes(token)


def _budget(context: int | None, prompt_tokens: int, max_tokens: int | None) -> int:
    """Tokens that may be generated."""
    if context is None:
        return _UNLIMITED_TOKENS if max_tokens is None else max_tokens
    room = context - prompt_tokens
    return room if max_tokens is None else min(room, max_tokens)
