"""Attention of one token: the same answers as transformers' own, by another product."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig
from transformers.integrations import sdpa_attention

from pilotlight_platform.engine import attention

HEADS, WIDTH, COLUMNS, ROWS = 4, 16, 33, 2


class _Layer(torch.nn.Module):
    """What transformers' function asks its caller for."""

    is_causal = True

    def __init__(self, key_heads: int) -> None:
        super().__init__()
        self.num_key_value_groups = HEADS // key_heads


def _states(key_heads: int, dtype: torch.dtype, queries: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(key_heads)
    return [
        torch.randn(ROWS, heads, columns, WIDTH, generator=generator).to(dtype)
        for heads, columns in ((HEADS, queries), (key_heads, COLUMNS), (key_heads, COLUMNS))
    ]


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The queries of each call of transformers' own function, from now on."""
    found: list[int] = []

    def noting(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(query.shape[2])
        return sdpa_attention.sdpa_attention_forward(module, query, *args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", noting)
    return found


@pytest.mark.parametrize("key_heads", [1, 2, HEADS])
def test_attention_of_one_token_is_softmax_times_values(
    key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = _calls(monkeypatch)
    query, key, value = _states(key_heads, torch.bfloat16)
    actual, weights = attention.attend(_Layer(key_heads), query, key, value, None, scaling=0.3)
    repeated = [states.double().repeat_interleave(HEADS // key_heads, 1) for states in (key, value)]
    scores = (query.double() @ repeated[0].transpose(2, 3) * 0.3).softmax(-1)
    expected = (scores @ repeated[1]).transpose(1, 2)
    assert weights is None
    assert not theirs
    torch.testing.assert_close(actual.double(), expected, rtol=0.02, atol=0.004)


@pytest.mark.parametrize(
    ("dtype", "queries", "masked"),
    [
        (torch.float32, 1, False),
        (torch.bfloat16, 5, False),
        (torch.bfloat16, 1, True),
    ],
)
def test_attention_leaves_the_rest_to_transformers(
    dtype: torch.dtype, queries: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = _calls(monkeypatch)
    layer, states = _Layer(2), _states(2, dtype, queries)
    mask = torch.ones(ROWS, 1, queries, COLUMNS, dtype=torch.bool) if masked else None
    actual, _ = attention.attend(layer, *states, mask, scaling=0.3)
    expected, _ = sdpa_attention.sdpa_attention_forward(layer, *states, mask, scaling=0.3)
    assert theirs == [queries]
    assert torch.equal(actual, expected)


def test_attend_by_rows_is_asked_by_a_model_with_torchs_attention() -> None:
    with torch.device("meta"):
        config = LlamaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
        )
        module = AutoModelForCausalLM.from_config(config)
    attention.attend_by_rows(module)
    assert module.model.layers[0].self_attn.config._attn_implementation == attention._NAME


def test_attend_by_rows_leaves_a_model_that_asks_for_its_attention() -> None:
    with torch.device("meta"):
        config = FalconConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
        )
        module = AutoModelForCausalLM.from_config(config)
    module._supports_attention_backend = True  # only what its code says is left to stop it
    before = module.config._attn_implementation
    attention.attend_by_rows(module)
    assert module.config._attn_implementation == before == "sdpa"


def test_attend_by_rows_leaves_a_model_whose_code_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(_module: Any) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", unreadable)
    with torch.device("meta"):
        config = LlamaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
        )
        module = AutoModelForCausalLM.from_config(config)
    attention.attend_by_rows(module)
    assert module.config._attn_implementation == "sdpa"
