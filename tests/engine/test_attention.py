"""Attention of one token: the same answers as transformers' own, by another product."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig
from transformers.integrations import sdpa_attention

from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_attention import BfloatAttention
from pilotlight_loader.kernels.compiler import Compiler
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


@pytest.fixture(scope="module")
def kernel() -> BfloatAttention:
    pytest.importorskip("llvmlite")
    return BfloatAttention(Compiler())


@pytest.fixture
def compiled(kernel: BfloatAttention, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scales that the kernel was given, which is there whatever this CPU has."""
    scales = []
    attend = kernel.attend

    def noting(*states: Any) -> torch.Tensor:
        scales.append(states[-1])
        return attend(*states)

    monkeypatch.setattr(kernel, "attend", noting)
    monkeypatch.setattr(chosen, "bfloat_attention", lambda: kernel)
    return scales


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "bfloat_attention", lambda: None)


@pytest.mark.parametrize("by", ["compiled", "uncompiled"])
@pytest.mark.parametrize("key_heads", [1, 2, HEADS])
def test_attention_of_one_token_is_softmax_times_values(
    by: str, key_heads: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    scales = request.getfixturevalue(by)
    theirs = _calls(monkeypatch)
    query, key, value = _states(key_heads, torch.bfloat16)
    actual, weights = attention.attend(_Layer(key_heads), query, key, value, None, scaling=0.3)
    repeated = [states.double().repeat_interleave(HEADS // key_heads, 1) for states in (key, value)]
    scores = (query.double() @ repeated[0].transpose(2, 3) * 0.3).softmax(-1)
    expected = (scores @ repeated[1]).transpose(1, 2)
    assert weights is None
    assert not theirs
    assert scales == ([0.3] if by == "compiled" else None)
    torch.testing.assert_close(actual.double(), expected, rtol=0.02, atol=0.004)


@pytest.mark.parametrize("by", ["compiled", "uncompiled"])
def test_attention_that_is_not_told_a_scale_has_that_of_torch(
    by: str, request: pytest.FixtureRequest
) -> None:
    scales = request.getfixturevalue(by)
    states = _states(2, torch.bfloat16)
    actual, _ = attention.attend(_Layer(2), *states, None)
    expected, _ = sdpa_attention.sdpa_attention_forward(_Layer(2), *states, None)
    assert scales == ([WIDTH**-0.5] if by == "compiled" else None)
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.004)


def test_attention_that_the_kernel_does_not_take_is_torchs(compiled: list[float]) -> None:
    query, key, value = _states(2, torch.bfloat16)
    odd = [states[..., :7].contiguous() for states in (query, key, value)]
    actual, _ = attention.attend(_Layer(2), *odd, None, scaling=0.3)
    expected, _ = sdpa_attention.sdpa_attention_forward(_Layer(2), *odd, None, scaling=0.3)
    assert not compiled
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.004)


@pytest.mark.usefixtures("compiled")
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


@pytest.mark.parametrize(("dtype", "times"), [(torch.bfloat16, 1), (torch.float32, 0)])
def test_attend_by_rows_compiles_what_the_model_will_want(
    dtype: torch.dtype, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(chosen, "bfloat_attention", lambda: asked.append(True))
    with torch.device("meta"):
        config = LlamaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
        )
        module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    attention.attend_by_rows(module)
    assert len(asked) == times


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
