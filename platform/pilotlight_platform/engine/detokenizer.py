"""Token ids to text, one token at a time, without ever splitting a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "�"  # what a decoder shows for bytes that are no character (yet)

# A UTF-8 character has at most four bytes, so at most four byte tokens.
_LONGEST_CHARACTER = 4

# Tokens of the prompt that the first answer token is decoded behind. A sentencepiece decoder
# strips the space of whatever comes first; behind a prompt that space belongs to the answer.
_PROMPT_WINDOW = 4


class Detokenizer:
    """Decodes a growing answer in constant work per token.

    Only a window is decoded: the tokens of the last piece of text (*context*) and those that are
    not shown yet (*pending*). What is new is what the window shows behind the context's own text.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int] = (), hidden: frozenset[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden | frozenset(tokenizer.all_special_ids)
        self._pending: list[int] = []
        self._context = [token for token in prompt[-_PROMPT_WINDOW:] if token not in self._hidden]
        self._shown = self._decode(self._context)
        if self._shown.endswith(_REPLACEMENT):  # a token prompt that ends inside a character
            self._context, self._shown = [], ""

    def feed(self, token: int) -> str:
        """The text that *token* completes; empty while a character is incomplete."""
        if token in self._hidden:
            return ""
        self._pending.append(token)
        if self._incomplete(self._pending):
            if len(self._pending) <= _LONGEST_CHARACTER:
                return ""
            return self._release(self._complete_count())
        return self._release(len(self._pending))

    def flush(self) -> str:
        """The rest, at the end of the answer; an unfinished character is left out."""
        return self._release(len(self._pending)).rstrip(_REPLACEMENT) if self._pending else ""

    def _complete_count(self) -> int:
        """How many pending tokens may be shown when they cannot all be one character.

        Bytes that are no UTF-8 would be held back for ever. If no prefix ends cleanly, a
        character that began before the last three tokens would be complete by now.
        """
        for held in range(1, _LONGEST_CHARACTER):
            if not self._incomplete(self._pending[:-held]):
                return len(self._pending) - held
        return len(self._pending) - (_LONGEST_CHARACTER - 1)

    def _release(self, count: int) -> str:
        released = self._pending[:count]
        text = self._decode(self._context + released)[len(self._shown) :]
        self._pending = self._pending[count:]
        self._context, self._shown = released, self._decode(released)
        return text

    def _incomplete(self, pending: list[int]) -> bool:
        return self._decode(self._context + pending).endswith(_REPLACEMENT)

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
