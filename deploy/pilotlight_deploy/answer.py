"""A streamed answer of the OpenAI endpoints, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pilotlight_deploy.errors import from_api


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; times are seconds since the request was sent, on this side."""

    request_id: str
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None
    total_s: float
    server_timing: str


@dataclass(slots=True)
class AnswerStream:
    """Iterate once for the pieces of text, then ask for ``answer``."""

    request_id: str
    server_timing: str  # the header as it came
    began_s: float  # time.perf_counter() when the request was sent
    objects: Iterator[dict[str, Any]]
    _pieces: list[str] = field(default_factory=list)
    _ttft_s: float | None = None
    _finish_reason: str | None = None
    _usage: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """Text as it comes. Raises CliError for an error inside the stream."""
        for event in self.objects:
            if "error" in event:
                error = event["error"]
                raise from_api(str(error.get("message")), str(error.get("code")))
            if self._ttft_s is None:
                self._ttft_s = time.perf_counter() - self.began_s
            self._usage = event.get("usage") or self._usage
            for choice in event.get("choices", ()):
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
                piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
                if piece:
                    self._pieces.append(piece)
                    yield piece

    def answer(self) -> Answer:
        """What has come so far; the whole answer after the iteration."""
        return Answer(
            request_id=self.request_id,
            text="".join(self._pieces),
            finish_reason=self._finish_reason,
            prompt_tokens=int(self._usage.get("prompt_tokens", 0)),
            completion_tokens=int(self._usage.get("completion_tokens", 0)),
            ttft_s=self._ttft_s,
            total_s=time.perf_counter() - self.began_s,
            server_timing=self.server_timing,
        )
