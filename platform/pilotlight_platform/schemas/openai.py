"""Requests of the OpenAI API, as far as they are served. What is not served is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stop = str | Annotated[list[str], Field(max_length=16)] | None


class _Body(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class StreamOptions(_Body):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class _GenerationBody(_Body):
    # OpenAI clients send fields that newer models know; unknown ones are ignored as OpenAI does,
    # the ones that would change the answer are refused below.
    model_config = ConfigDict(extra="allow")

    model: str | None = None
    temperature: float = Field(
        1.0, ge=0, le=2, allow_inf_nan=False, description="Below 0.0001: greedy, as at 0."
    )
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop = None
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.n != 1:
            raise ValueError("n: only 1 answer per request is supported")
        extra = self.model_extra or {}
        for name in self._refused():
            value = extra.get(name)
            if value not in (None, 0, 0.0, False, [], {}, "none", "auto", {"type": "text"}):
                raise ValueError(f"{name}: not supported")
        if isinstance(self.stop, list) and not all(self.stop):
            raise ValueError("stop: strings must not be empty")
        if self.stop == "":
            raise ValueError("stop: must not be empty")
        return self

    @model_validator(mode="after")
    def _unicode(self) -> Self:
        # JSON can escape half of a surrogate pair ("\ud800"), which no tokenizer can encode.
        for name, text in self._texts():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}: no valid Unicode, a lone surrogate at character {error.start}"
                ) from None
        return self

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Every text that is used, with the name of its field."""
        yield "model", self.model or ""
        for text in self.stop_strings:
            yield "stop", text

    @staticmethod
    def _refused() -> tuple[str, ...]:
        return (
            "tools",
            "functions",
            "response_format",
            "logit_bias",
            "frequency_penalty",
            "presence_penalty",
            "echo",
            "suffix",
            "audio",
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(_GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if isinstance(self.prompt, list):
            if not self.prompt:
                raise ValueError("prompt: must not be empty")
            if not isinstance(self.prompt[0], int) and len(self.prompt) != 1:
                raise ValueError("prompt: one prompt per request is supported")
        if self.best_of not in (None, 1):
            raise ValueError("best_of: only 1 is supported")
        return self

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield from super()._texts()
        if self.prompt:
            yield "prompt", self.text or ""

    @property
    def text(self) -> str | None:
        """The prompt if it is text."""
        first = self.prompt[0] if isinstance(self.prompt, list) else self.prompt
        return first if isinstance(first, str) else None

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """The prompt if it is token ids."""
        if isinstance(self.prompt, str):
            return None
        first: Any = self.prompt[0]
        if isinstance(first, list):
            return tuple(first)
        return tuple(self.prompt) if isinstance(first, int) else None  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def as_template_input(self) -> dict[str, str]:
        """Role and plain text, as chat templates expect them."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content or ""}


class ChatCompletionRequest(_GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield from super()._texts()
        for index, message in enumerate(self.messages):
            yield f"messages.{index}.content", message.as_template_input()["content"]

    @model_validator(mode="after")
    def _logprobs_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs: true")
        return self
