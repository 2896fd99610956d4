from __future__ import annotations

import pytest
import torch
from torch import nn

from pilotlight_loader import record_execution_order


def test_order_follows_the_forward_pass(affine):
    order = record_execution_order(affine, lambda: affine(torch.ones(1, 3)))

    assert order[:5] == ["first.weight", "first.bias", "first.scale", "last.weight", "last.bias"]


def test_order_puts_the_unused_last(affine):
    order = record_execution_order(affine, lambda: affine(torch.ones(1, 3)))

    assert order[5:] == ["unused.weight", "unused.bias"]


def test_order_names_every_tensor_once(any_model):
    named = dict(any_model.model.named_parameters()) | dict(any_model.model.named_buffers())

    assert sorted(any_model.order) == sorted(named)


def test_order_names_a_tied_tensor_where_it_is_first_read():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.a.weight = self.b.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(self.b(x))

    module = Backwards()

    assert record_execution_order(module, lambda: module(torch.ones(2))) == ["b.weight"]


def test_order_walks_the_layers_of_a_transformer(llama):
    layers = [int(name.split(".")[2]) for name in llama.order if ".layers." in name]

    assert layers == sorted(layers)
    assert llama.order[0] == "model.embed_tokens.weight"
    assert llama.order[-1] == "lm_head.weight"


def test_order_removes_its_hooks_when_forward_fails(affine):
    with pytest.raises(RuntimeError, match="shapes"):
        record_execution_order(affine, lambda: affine(torch.ones(1, 99)))

    assert not any(module._forward_pre_hooks for module in affine.modules())
