"""Chat messages to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_platform.errors import InvalidRequestError


def encode_messages(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The prompt of a chat, through the tokenizer's own template.

    A tokenizer without a template (a base model) gets the plain form: one ``role: content`` line
    per message, then ``assistant:``.

    Raises:
        InvalidRequestError: if the template refuses the messages, with the template's words.
    """
    if not messages:
        raise InvalidRequestError("messages: must not be empty", "messages")
    if not tokenizer.chat_template:
        lines = [f"{message['role']}: {message.get('content') or ''}" for message in messages]
        return list(tokenizer("\n".join([*lines, "assistant:"]))["input_ids"])
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program: it may raise anything
        raise InvalidRequestError(f"the chat template refused: {error}", "messages") from error
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
