"""What is trained, and how: the numbers, and why they are these."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig

from train_sample.tokenizer import BOS_ID, EOS_ID


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run is this and a library; nothing else decides its weights."""

    # Wide and shallow: 12 % more of a core's arithmetic is used than by six layers of 256.
    hidden: int = 384
    intermediate: int = 1024
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    vocab: int = 2048
    context: int = 512
    # Windows are shorter at first: 25 % more tokens a second.
    short_context: int = 256
    long_share: float = 0.3  # of the steps, with the whole context
    step_tokens: int = 8192  # so that Muon's own arithmetic, 0.3 s, is a tenth of a step's
    steps: int = 600
    warm_up_steps: int = 40
    decay_share: float = 0.5  # of the steps; the rate is constant in between
    muon_rate: float = 0.02
    adam_rate: float = 0.003
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 7

    def rate(self, step: int) -> float:
        """The share of the learning rates at *step*: warm-up, constant, linear to zero.

        Until the decay begins it does not depend on `steps`: a run may be shortened or prolonged.
        """
        left = (self.steps - step) / (self.steps - self.decay_from)
        return min(1.0, (step + 1) / self.warm_up_steps, left)

    @property
    def decay_from(self) -> int:
        """The first step of the decay."""
        return self.steps - round(self.steps * self.decay_share)

    @property
    def long_from(self) -> int:
        """The first step with the whole context."""
        return self.steps - round(self.steps * self.long_share)

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocab,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
        )
