"""Small real models, and what a deploy makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from pilotlight_loader import BakedCheckpoint, bake, record_execution_order

torch.set_num_threads(1)

_COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 8,
    "factor": 8.0,
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_COMMON),
    "llama-tied": lambda: LlamaConfig(**_COMMON, tie_word_embeddings=True),
    # Writes into its inv_freq buffer in every forward pass.
    "llama-longrope": lambda: LlamaConfig(**_COMMON, rope_parameters=_LONGROPE),
    "qwen3": lambda: Qwen3Config(**_COMMON, head_dim=16),
    "gpt2": lambda: GPT2Config(
        vocab_size=128, n_positions=64, n_embd=64, n_layer=2, n_head=4, **_TOKENS
    ),
    "mpt": lambda: MptConfig(
        vocab_size=128, d_model=64, n_heads=4, n_layers=2, max_seq_len=64, **_TOKENS
    ),
    "mixtral": lambda: MixtralConfig(**_COMMON, num_local_experts=4),
}
PROMPT = torch.arange(3, 27).view(1, -1)  # [batch, tokens]


@dataclass(frozen=True)
class BakedModel:
    """A random model, its answer, and its baked checkpoint."""

    config: PreTrainedConfig
    model: nn.Module
    order: list[str]
    logits: torch.Tensor  # [batch, tokens, vocabulary]
    baked: BakedCheckpoint

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def bake_model(name: str, directory: Path) -> BakedModel:
    config = CONFIGS[name]()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    order = record_execution_order(model, lambda: answer(model))
    baked = bake(model, directory / f"{name}.safetensors", order=order, metadata={"note": name})
    return BakedModel(config, model, order, answer(model), baked)


@pytest.fixture(scope="session", params=CONFIGS)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Each architecture in turn."""
    return bake_model(request.param, tmp_path_factory.mktemp("any"))


@pytest.fixture(scope="session")
def tied_llama(tmp_path_factory: pytest.TempPathFactory) -> BakedModel:
    return bake_model("llama-tied", tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> BakedModel:
    return bake_model("llama", tmp_path_factory.mktemp("llama"))


class Affine(nn.Module):
    """Two layers, a buffer, and the weights in the order that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)
        self.first = nn.Linear(3, 4)
        self.first.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) * self.first.scale)


@pytest.fixture
def affine() -> Affine:
    return Affine()


@pytest.fixture
def bake_module(tmp_path: Path) -> Callable[[nn.Module], BakedCheckpoint]:
    """Bake any module to a fresh file."""

    def bake_it(module: nn.Module) -> BakedCheckpoint:
        return bake(module, tmp_path / "module.safetensors", order=[], metadata={})

    return bake_it
