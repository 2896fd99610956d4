"""A 2:4 sparse model is stored compressed, and answers as it did."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pilotlight_loader import BakedCheckpoint, StandInCheckpoint
from pilotlight_loader.sparse.layers import SparseLinear
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import SourceError


@pytest.fixture
def source(sources, tmp_path):
    directory = Path(shutil.copytree(sources("llama"), tmp_path / "source"))
    tensors = load_file(directory / "model.safetensors")
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            weight.view(-1, 4)[:, 1:3] = 0
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture
def bake(source, tmp_path):
    def bake(**options):
        (tmp_path / "baked").mkdir()
        options = {"dtype": "bfloat16", "sparse": True, "report": lambda *_: None, **options}
        bake_source(source, tmp_path / "baked", **options)
        return tmp_path / "baked"

    return bake


def test_sparse_model_is_compressed_and_verified(bake):
    """bake_source compares its answers with those of the source."""
    directory = bake()

    baked = BakedCheckpoint.open(directory / "model.safetensors")
    layers = Skeleton.load(directory).module.model.layers
    assert len(baked.sparse) == 7 * len(layers)
    assert [path.name for path in directory.glob("*.safetensors")] == ["model.safetensors"]
    assert type(layers[0].mlp.up_proj) is SparseLinear


def test_sparse_model_is_rehearsed_with_one_expansion_for_each_shape(bake):
    skeleton = Skeleton.load(bake())
    replica = Replica.attach(skeleton, StandInCheckpoint(skeleton.baked))

    with torch.inference_mode():
        skeleton.module(input_ids=torch.tensor([[1, 2, 3]]))

    layers = skeleton.module.model.layers
    assert layers[0].mlp.up_proj._usable() is layers[1].mlp.up_proj._usable()
    replica.detach()


def test_sparse_is_not_looked_for_without_a_wish(bake):
    assert not BakedCheckpoint.open(bake(sparse=False) / "model.safetensors").sparse


def test_sparse_without_a_weight_of_the_pattern_is_refused(bake):
    with pytest.raises(SourceError, match="no linear weight of 16 bits is 2:4 sparse"):
        bake(dtype="float32")


def test_sparse_and_quantized_is_refused(bake):
    with pytest.raises(SourceError, match="not quantized"):
        bake(quantizing=Quantizing("int8"))
