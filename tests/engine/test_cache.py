"""What a cache will take, told from one that has only begun."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig

from pilotlight_platform.engine.cache import CacheGrowth

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
TOKEN_BYTES = 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, float32


@pytest.mark.parametrize(
    ("config", "kept"),
    [(LlamaConfig(**SIZES), 1000), (MistralConfig(**SIZES, sliding_window=6), 6)],
    ids=["all tokens", "a window"],
)
def test_full_cache_is_told_from_its_beginning(config: LlamaConfig, kept: int) -> None:
    cache = DynamicCache(config=config)
    for layer in range(3):
        states = torch.zeros(1, 2, 8, 8)
        cache.update(states, states, layer)

    assert CacheGrowth.of(cache).nbytes(1000) == kept * TOKEN_BYTES
    assert CacheGrowth.of(cache).nbytes(0) == 0  # the model names no limit
