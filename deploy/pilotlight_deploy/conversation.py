"""A chat with a model: turn after turn, each answer streamed as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_deploy.answer import Answer
from pilotlight_deploy.client import PlatformClient
from pilotlight_platform.schemas.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer and how it came about."""

    answer: Answer
    timeline: Timeline


@dataclass(slots=True)
class Conversation:
    """Keeps the messages: the model sees all turns before."""

    client: PlatformClient
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    _messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, message: str, on_text: Callable[[str], None]) -> Turn:
        """Send *message*, give each piece of the answer to *on_text*.

        A turn that fails with a CliError is not kept.
        """
        asked = [*self._messages, {"role": "user", "content": message}]
        with self.client.chat(
            self.model,
            asked,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        ) as stream:
            for piece in stream:
                on_text(piece)
        answer = stream.answer()
        self._messages = [*asked, {"role": "assistant", "content": answer.text}]
        return Turn(answer, self.client.finished_timeline(answer.request_id))
