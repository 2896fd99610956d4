"""Loading tied weights, of which a file has one half or both."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.small_llama import (
    OPTIONS,
    SmallLlama,
)
from support.small_modules import on_meta, opened_file
from torch import nn

from pilotlight_loader import AttachMismatchError
from pilotlight_loader.pipeline.load import load


def test_load_keeps_tied_weights_one_parameter(tmp_path, device):
    llama = SmallLlama(tmp_path, tied=True)
    skeleton = llama.skeleton()

    load(llama.open()[0], skeleton, device, options=OPTIONS)

    assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight


def tied_pair() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    return module


def test_load_fills_a_tied_weight_that_the_file_leaves_out(tmp_path):
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        module[1].weight = module[0].weight
        return module

    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2)}, path)
    skeleton = on_meta(build)

    load(opened_file(path), skeleton)

    assert skeleton[1].weight is skeleton[0].weight
    assert torch.equal(skeleton[1].weight, torch.eye(2))


def test_load_takes_the_first_of_a_tie_that_the_file_has_twice(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.eye(2)}, path)
    skeleton = on_meta(tied_pair)

    report = load(opened_file(path), skeleton)

    assert skeleton[1].weight is skeleton[0].weight
    assert torch.equal(skeleton[1].weight, torch.eye(2))
    assert report.nbytes == 16  # the other half is not loaded


@pytest.mark.parametrize("number", [0, 3])  # its first and its last
def test_load_refuses_halves_of_a_tie_that_differ(tmp_path, number):
    other = torch.eye(2)
    other.view(-1)[number] = 7
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": other}, path)
    skeleton = on_meta(tied_pair)

    with pytest.raises(AttachMismatchError, match=r"1\.weight and 0\.weight are tied .* differ"):
        load(opened_file(path), skeleton)
    assert skeleton[0].weight.is_meta


def test_load_of_halves_that_differ_takes_the_one_that_rename_leaves(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.ones(2, 2)}, path)
    skeleton = on_meta(tied_pair)

    load(opened_file(path), skeleton, rename=lambda name: name if name == "1.weight" else None)

    assert torch.equal(skeleton[0].weight, torch.ones(2, 2))


def test_load_refuses_halves_of_a_tie_that_cannot_be_one(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.eye(3)}, path)

    with pytest.raises(AttachMismatchError, match=r"1\.weight is \[3, 3\]"):
        load(opened_file(path), on_meta(tied_pair))
