"""The sample's tokenizer: byte-level BPE, learned from the files that are trained on."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pilotlight_deploy.sample_corpus import SourceFile
from pilotlight_deploy.sample_tokenizer import BOS, EOS

BOS_ID, EOS_ID = 0, 1


def train_tokenizer(files: Iterable[SourceFile], vocab: int) -> Tokenizer:
    """Exactly *vocab* tokens, every byte among them; the same for the same files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((source.text for source in files), trainer)
    return tokenizer
