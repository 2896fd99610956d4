"""The sample models' tokenizer: byte-level BPE, trained on the spot on text made here."""

from __future__ import annotations

import keyword
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS = "<|begin|>", "<|end|>"
CHAT_TEMPLATE = (
    f"{{{{ '{BOS}' }}}}"
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

_SENTENCES = (
    "A pilot light burns small and steady, so that the stove lights at once.",
    "The model sleeps at zero, and the first request wakes it.",
    "Bytes that are already near need not be fetched again.",
    "user: How fast is a cold start? assistant: As fast as the link allows.",
)
_ONSETS = [*"bcdfghjklmnprstvw", "st", "tr", "pl", "br"]
_VOWELS = [*"aeiou", "ai", "ou"]
_CODAS = ["", *"nrsltm"]


def train_tokenizer(vocab_size: int, seed: int) -> Tokenizer:
    """A tokenizer of exactly *vocab_size* tokens, the same for the same arguments."""
    # tokenizers is slow to import beside the rest of the command.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_text(vocab_size, seed)], trainer)
    return tokenizer


def _text(words: int, seed: int) -> str:
    """As many made-up words as tokens are wanted: each gives about one merge of its own."""
    rng = random.Random(seed)
    made = (
        "".join(
            rng.choice(part)
            for _ in range(rng.randint(1, 4))
            for part in (_ONSETS, _VOWELS, _CODAS)
        )
        for _ in range(words)
    )
    return " ".join([*_SENTENCES, *keyword.kwlist, *made])
