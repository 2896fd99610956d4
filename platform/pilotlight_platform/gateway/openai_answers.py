"""Chunks of a generation as OpenAI's objects. Pure: values in, dictionaries out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pilotlight_platform.schemas.generation import GenerationChunk, TokenLogprob
from pilotlight_platform.schemas.timeline import Timeline

Json = dict[str, Any]


class Answer(Protocol):
    """How one endpoint writes its answer."""

    def opening(self) -> list[Json]:
        """Events before the first text."""
        ...

    def event(self, chunk: GenerationChunk) -> Json:
        """One streamed chunk."""
        ...

    def usage_event(self, timeline: Timeline) -> Json:
        """The event that ``stream_options.include_usage`` asks for."""
        ...

    def whole(self, chunks: Sequence[GenerationChunk], timeline: Timeline) -> Json:
        """The plain answer."""
        ...


def usage(timeline: Timeline) -> Json:
    prompt, completion = timeline.prompt_tokens, timeline.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@dataclass(slots=True)
class CompletionAnswer:
    """/v1/completions."""

    request_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    _offset: int = 0  # characters so far, for logprobs.text_offset

    def opening(self) -> list[Json]:
        return []

    def event(self, chunk: GenerationChunk) -> Json:
        return self._object(chunk.text, chunk.logprobs, chunk.finish_reason)

    def usage_event(self, timeline: Timeline) -> Json:
        return {**self._head(), "choices": [], "usage": usage(timeline)}

    def whole(self, chunks: Sequence[GenerationChunk], timeline: Timeline) -> Json:
        text = "".join(chunk.text for chunk in chunks)
        logprobs = tuple(entry for chunk in chunks for entry in chunk.logprobs)
        body = self._object(text, logprobs, timeline.finish_reason)
        return {**body, "usage": usage(timeline)}

    def _head(self) -> Json:
        return {
            "id": f"cmpl-{self.request_id}",
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _object(
        self, text: str, logprobs: tuple[TokenLogprob, ...], finish_reason: str | None
    ) -> Json:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        return {**self._head(), "choices": [choice]}

    def _logprobs(self, entries: tuple[TokenLogprob, ...]) -> Json:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry.text)
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                {text: logprob for _, text, _, logprob in entry.top} for entry in entries
            ],
            "text_offset": offsets,
        }


@dataclass(slots=True)
class ChatAnswer:
    """/v1/chat/completions."""

    request_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self) -> list[Json]:
        return [self._chunk({"role": "assistant", "content": ""}, (), None)]

    def event(self, chunk: GenerationChunk) -> Json:
        delta = {"content": chunk.text} if chunk.text else {}
        return self._chunk(delta, chunk.logprobs, chunk.finish_reason)

    def usage_event(self, timeline: Timeline) -> Json:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(timeline)}

    def whole(self, chunks: Sequence[GenerationChunk], timeline: Timeline) -> Json:
        logprobs = tuple(entry for chunk in chunks for entry in chunk.logprobs)
        choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "".join(chunk.text for chunk in chunks),
                "refusal": None,
            },
            "logprobs": _chat_logprobs(logprobs),
            "finish_reason": timeline.finish_reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(timeline)}

    def _head(self, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _chunk(
        self, delta: Json, logprobs: tuple[TokenLogprob, ...], finish_reason: str | None
    ) -> Json:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": _chat_logprobs(logprobs),
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def _chat_logprobs(entries: tuple[TokenLogprob, ...]) -> Json | None:
    if not entries:
        return None
    return {
        "content": [
            {
                "token": entry.text,
                "logprob": entry.logprob,
                "bytes": list(entry.token_bytes),
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": list(raw)}
                    for _, text, raw, logprob in entry.top
                ],
            }
            for entry in entries
        ],
        "refusal": None,
    }
