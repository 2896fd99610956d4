"""How well a model predicts held-out text: perplexity, and agreement with another's choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]  # ids [1, n] to logits [1, n, vocabulary]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model made of a text, token by token, in the text's order."""

    nats: torch.Tensor  # [tokens], float32: minus the log-probability of the token that came
    choices: torch.Tensor  # [tokens], int64: the token that it held the likeliest

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats.double().mean().item())

    def bits_per_byte(self, text_bytes: int) -> float:
        """The same, comparable between tokenizers; *text_bytes* is the whole text's length."""
        return self.nats.double().sum().item() / math.log(2) / text_bytes

    def top1_agreement(self, other: Predictions) -> float:
        """The share of tokens for which both choose the same. Raises ValueError for two texts."""
        if len(self.choices) != len(other.choices):
            raise ValueError(f"{len(self.choices)} and {len(other.choices)} tokens are two texts")
        return (self.choices == other.choices).double().mean().item()


def windows(ids: Sequence[int], length: int) -> list[torch.Tensor]:
    """*ids* cut into [≤ length + 1]; each begins with its predecessor's last, which is context."""
    whole = torch.tensor(ids)
    return [whole[at : at + length + 1] for at in range(0, len(ids) - 1, length)]


@torch.inference_mode()
def predict(logits: Logits, parts: Sequence[torch.Tensor]) -> Predictions:
    """Run *logits* over each of *parts* and score every token but its first."""
    nats, choices = [], []
    for part in parts:
        scores = logits(part[None, :-1])[0].float()
        nats.append(torch.nn.functional.cross_entropy(scores, part[1:], reduction="none"))
        choices.append(scores.argmax(-1))
    return Predictions(torch.cat(nats), torch.cat(choices))
