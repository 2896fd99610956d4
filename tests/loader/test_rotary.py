"""Whose rotary embedding is compiled, and what that leaves to torch."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from transformers.models.glm.modeling_glm import GlmAttention
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from pilotlight_loader import rotary
from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_rotary import BfloatRotary
from pilotlight_loader.kernels.compiler import Compiler

ROWS, HEADS, TOKENS, WIDTH = 2, 3, 5, 16


def _states(dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, TOKENS, HEADS, WIDTH)
    heads = [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for _ in range(2)]
    tables = [torch.randn(1, TOKENS, WIDTH, generator=generator).to(dtype) for _ in range(2)]
    return [*heads, *tables]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the queries that the kernel was given."""
    pytest.importorskip("llvmlite")
    kernel, shapes = BfloatRotary(Compiler()), []
    turn = kernel.turn

    def noting(query: torch.Tensor, *others: torch.Tensor) -> Any:
        shapes.append(query.shape)
        return turn(query, *others)

    monkeypatch.setattr(kernel, "turn", noting)
    monkeypatch.setattr(chosen, "bfloat_rotary", lambda: kernel)
    return shapes


def _assert_same(states: list[torch.Tensor], *axis: int) -> None:
    actual, expected = rotary.turn(*states, *axis), apply_rotary_pos_emb(*states, *axis)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    assert actual[0].dtype == expected[0].dtype


def test_rotary_is_compiled(asked: list[torch.Size]) -> None:
    states = _states()
    _assert_same(states)
    _assert_same([*states[:2], *(table.repeat(ROWS, 1, 1) for table in states[2:])])

    assert asked == 2 * [(ROWS, HEADS, TOKENS, WIDTH)]


def test_rotary_of_other_numbers_is_torchs(asked: list[torch.Size]) -> None:
    _assert_same(_states(torch.float32))
    _assert_same([*_states()[:2], *_states(torch.float32)[2:]])

    assert not asked


def test_rotary_of_other_shapes_and_strides_is_torchs(asked: list[torch.Size]) -> None:
    query, key, cosines, sines = _states()
    _assert_same([query.contiguous(), key, cosines, sines])
    _assert_same([query, key.contiguous(), cosines, sines])
    _assert_same([query, key, cosines[:, :1], sines[:, :1]])
    _assert_same([query, key, cosines[..., :1], sines[..., :1]])
    _assert_same([query, key, cosines[:, :, :1].expand_as(cosines), sines])
    _assert_same([query[:0], key[:0], cosines, sines])
    _assert_same([part.transpose(1, 2).contiguous() for part in (query, key)] + [cosines, sines], 2)
    _assert_same([query.flatten(0, 1), key.flatten(0, 1), cosines[0], sines[0]], 0)

    assert not asked


def test_rotary_keeps_gradients(asked: list[torch.Size]) -> None:
    query, *others = _states()
    query.requires_grad_()
    turned, _ = rotary.turn(query, *others)

    assert turned.requires_grad
    assert not asked


def test_rotary_can_be_rehearsed_without_numbers(asked: list[torch.Size]) -> None:
    states = [part.to("meta") for part in _states()]

    assert rotary.turn(*states)[0].shape == (ROWS, HEADS, TOKENS, WIDTH)
    assert not asked


def test_rotary_without_a_kernel_has_the_bits_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "bfloat_rotary", lambda: None)

    _assert_same(_states())


@pytest.mark.parametrize("attention", [LlamaAttention, Qwen3Attention])
def test_attention_with_this_rotary_has_a_class_that_calls_ours(
    attention: type[torch.nn.Module],
) -> None:
    sooner = rotary.sooner(attention)

    assert sooner is not None
    assert issubclass(sooner, attention)
    assert sooner.forward.__code__ is attention.forward.__code__
    assert sooner.forward.__globals__["apply_rotary_pos_emb"] is rotary.turn
    assert rotary.sooner(attention) is sooner
    assert rotary.sooner(sooner) is None


def test_attention_of_other_models_keeps_what_it_calls() -> None:
    assert rotary.sooner(LlamaAttention) is not None

    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb
    assert LlamaAttention.forward.__globals__["apply_rotary_pos_emb"] is apply_rotary_pos_emb


def test_attention_with_another_rotary_is_not_taken() -> None:
    """Of half of the numbers, of neighbours, or none at all."""
    assert rotary.sooner(GlmAttention) is None
    assert rotary.sooner(torch.nn.Linear) is None


def test_attention_whose_halves_are_others_is_not_taken() -> None:
    """The function says the same, and calls something else by the same name."""
    others = {**vars(modeling_llama), "rotate_half": lambda x: x}
    other = types.FunctionType(
        apply_rotary_pos_emb.__code__, others, "other", apply_rotary_pos_emb.__defaults__
    )

    class Attention(torch.nn.Module):
        forward = types.FunctionType(
            LlamaAttention.forward.__code__, {**others, "apply_rotary_pos_emb": other}
        )

    assert rotary.sooner(Attention) is None
