"""Layers get classes that compute sooner, and the same; afterwards they are as before."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from pilotlight_loader import rotary, wide_product
from pilotlight_loader.hastened import hasten, hastened
from pilotlight_loader.kernels import chosen
from pilotlight_loader.square_norm import SquareNorm
from pilotlight_loader.wide_product import WideLinear

IDS = torch.arange(3, 12).view(1, -1)


def _llama(dtype: torch.dtype = torch.bfloat16) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()


def _kinds(module: torch.nn.Module) -> list[type]:
    return [type(layer) for layer in module.modules()]


@pytest.mark.parametrize("lacks", [True, False])
def test_hastened_changes_plain_layers_meanwhile(
    monkeypatch: pytest.MonkeyPatch, lacks: bool
) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: lacks)
    module = _llama()
    before = _kinds(module)
    others = {LlamaRMSNorm: SquareNorm, LlamaAttention: rotary.sooner(LlamaAttention)}
    if lacks:
        others[torch.nn.Linear] = WideLinear

    with contextlib.suppress(KeyError), hastened(module):
        assert _kinds(module) == [others.get(kind, kind) for kind in before]
        assert hasten(module) == []
        raise KeyError
    assert _kinds(module) == before


def test_hastened_model_answers_as_before() -> None:
    module = _llama()
    with torch.no_grad():
        expected = module(IDS).logits
        with hastened(module):
            actual = module(IDS).logits

    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


def test_hastened_leaves_a_layer_with_a_forward_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And turns queries and keys to the same bits, while no sum is added in another order."""
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: False)
    module = _llama()
    with torch.no_grad():
        for layer in module.modules():
            if type(layer) is LlamaRMSNorm:
                layer.forward = layer.forward
        expected = module(IDS).logits
        with hastened(module):
            assert SquareNorm not in _kinds(module)
            assert rotary.sooner(LlamaAttention) in _kinds(module)
            assert torch.equal(module(IDS).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_hasten_compiles_nothing_for_other_numbers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def compiled() -> None:
        raise AssertionError

    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: False)
    monkeypatch.setattr(chosen, "bfloat_norm", compiled)
    monkeypatch.setattr(chosen, "bfloat_rotary", compiled)

    assert hasten(_llama(dtype)) == []


def test_hasten_leaves_torchs_operators_where_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: False)
    monkeypatch.setattr(chosen, "bfloat_norm", lambda: None)
    monkeypatch.setattr(chosen, "bfloat_rotary", lambda: None)

    assert hasten(_llama()) == []
