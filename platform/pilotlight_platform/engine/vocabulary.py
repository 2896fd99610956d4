"""What single tokens stand for: their text and their exact bytes, for log-probabilities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """Text and bytes of one token, for byte-level BPE, sentencepiece and anything else."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {
            int(token): str(added.content)
            for token, added in tokenizer.added_tokens_decoder.items()
        }
        kinds = set(_decoder_kinds(tokenizer))
        self._byte_level = _byte_alphabet() if "ByteLevel" in kinds else None
        self._sentencepiece = "ByteFallback" in kinds

    def token_bytes(self, token: int) -> bytes:
        """The bytes that *token* adds; part of a character is not valid UTF-8 by itself."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # embeddings are often padded beyond the tokenizer's vocabulary
            return b""
        if self._byte_level is not None:
            return bytes(self._byte_level[char] for char in piece if char in self._byte_level)
        if self._sentencepiece:
            byte = _BYTE_PIECE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace")


def _decoder_kinds(tokenizer: Any) -> Iterator[str]:
    """Names of the steps of the tokenizer's decoder, nested sequences flattened."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return
    steps = [json.loads(decoder.__getstate__())]
    while steps:
        step = steps.pop()
        yield step["type"]
        steps.extend(step.get("decoders", ()))


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte (GPT-2's table, inverted).

    Printable Latin-1 stands for itself, the other bytes follow from U+0100 on in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet
