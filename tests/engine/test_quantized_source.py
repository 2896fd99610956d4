"""A checkpoint that others quantized is converted once, and answers like its own weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pilotlight_loader import BakedCheckpoint
from pilotlight_loader.quantize.matrix import FP8, INT8, QuantizedMatrix
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import SourceError

CONFIG = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}


@pytest.fixture
def plain(sources):
    return load_file(sources("llama") / "model.safetensors")


@pytest.fixture
def deep(make_source, tmp_path):
    """Four layers, all of whose linear weights are in compressed-tensors' fp8."""
    shapes = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128}
    directory = make_source("llama", tmp_path / "deep", **shapes)
    tensors = load_file(directory / "model.safetensors")
    for name, weight in list(tensors.items()):
        if name.endswith("_proj.weight"):
            matrix = NearestRounding().matrix(name, weight, FP8)
            tensors[name] = matrix.codes
            tensors[name + "_scale"] = matrix.scales
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    format_ = {"format": "float-quantized", "ignore": ["lm_head"], "config_groups": groups}
    set_config(directory, {"quant_method": "compressed-tensors", **format_})
    return directory


@pytest.fixture
def source(sources, plain, tmp_path):
    """Every linear layer but the last in bitsandbytes' int8."""
    directory = Path(shutil.copytree(sources("llama"), tmp_path / "source"))
    in_eight_bits(directory, plain)
    return directory


def in_eight_bits(directory, plain):
    tensors = dict(plain)
    for name, weight in plain.items():
        if name.endswith("_proj.weight"):
            matrix = theirs(name, weight)
            tensors[name] = matrix.codes
            tensors[name.replace("weight", "SCB")] = matrix.scales[:, 0] * 127
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    set_config(directory, CONFIG)


def theirs(name, weight):
    """Codes of half the range: rounded again, they would be others."""
    matrix = NearestRounding().matrix(name, weight, INT8)
    return QuantizedMatrix(8, matrix.codes // 2, matrix.scales * 2)


def set_config(directory, config):
    path = directory / "config.json"
    content = json.loads(path.read_text()) | {"quantization_config": config}
    path.write_text(json.dumps(content))


def bake(source, **options):
    destination = source.parent / "baked"
    destination.mkdir()
    reports = []
    options = {"dtype": "auto", "report": lambda *report: reports.append(report), **options}
    return bake_source(source, destination, **options), destination, reports


def test_quantized_source_is_baked_with_the_weights_that_it_means(source, plain):
    baked, directory, reports = bake(source)

    assert baked.dtype == "float32"
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    assert not (directory / "dequantized").exists()
    assert any("bitsandbytes, 8 bits" in message for _, message, *_ in reports)
    stored = BakedCheckpoint.open(directory / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert name in stored.quantized
    assert "lm_head.weight" in stored.tensors
    with stored.map() as mapped:
        codes, scales = (mapped.tensors()[name + end].clone() for end in ("_codes", "_scales"))
    expected = theirs(name, plain[name])
    assert torch.equal(codes, expected.codes)
    torch.testing.assert_close(scales, expected.scales[:, 0], rtol=1e-6, atol=0)


def test_quantized_source_in_other_bits_is_rounded_again(source):
    quantizing = Quantizing("fp8")

    _, directory, _ = bake(source, quantizing=quantizing)

    stored = BakedCheckpoint.open(directory / "model.safetensors")
    assert {matrix.scheme.kind for matrix in stored.quantized.values()} == {"fp8"}


def test_quantized_source_in_its_own_bits_keeps_its_codes(source, plain):
    _, directory, _ = bake(source, quantizing=Quantizing("int8"))

    stored = BakedCheckpoint.open(directory / "model.safetensors")
    assert "lm_head.weight" not in stored.quantized  # 8 bits leave it as it is
    name = "model.layers.0.mlp.up_proj.weight"
    with stored.map() as mapped:
        codes = mapped.tensors()[name + "_codes"].clone()
    assert torch.equal(codes, theirs(name, plain[name]).codes)


def test_quantized_source_keeps_the_codes_of_its_first_and_last_layer(deep):
    _, directory, _ = bake(deep, quantizing=Quantizing("fp8"))

    stored = BakedCheckpoint.open(directory / "model.safetensors").quantized
    assert {name.split(".")[2] for name in stored} == {"0", "1", "2", "3"}
    assert {matrix.scheme.kind for matrix in stored.values()} == {"fp8"}


def test_quantized_source_in_fewer_bits_has_8_in_its_first_and_last_layer(deep):
    _, directory, _ = bake(
        deep, dtype="bfloat16", quantizing=Quantizing("int4", rounding="nearest")
    )

    stored = BakedCheckpoint.open(directory / "model.safetensors").quantized
    kinds = [stored[f"model.layers.{at}.mlp.up_proj.weight"].scheme.kind for at in range(4)]
    assert kinds == ["int8", "trellis", "trellis", "int8"]


def test_quantized_source_in_fewer_bits_for_a_gpu_has_those_of_its_kernels(deep):
    _, directory, _ = bake(deep, quantizing=Quantizing("int4", rounding="nearest"), device="cuda")

    stored = BakedCheckpoint.open(directory / "model.safetensors").quantized
    kinds = [stored[f"model.layers.{at}.mlp.up_proj.weight"].scheme.kind for at in range(4)]
    assert kinds == ["int8", "int4", "int4", "int8"]


def test_quantized_source_keeps_codes_that_the_first_and_last_layer_want(make_source, tmp_path):
    shapes = {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 256}
    directory = make_source("llama", tmp_path / "deep", **shapes)
    plain = load_file(directory / "model.safetensors")
    in_eight_bits(directory, plain)
    baked, made, _ = bake(
        directory, dtype="bfloat16", quantizing=Quantizing("int4", rounding="nearest")
    )

    assert baked.quantization == "int4"  # the codes of most are not the source's own
    stored = BakedCheckpoint.open(made / "model.safetensors")
    first, second = (f"model.layers.{at}.mlp.up_proj.weight" for at in range(2))
    assert [stored.quantized[name].scheme.kind for name in (first, second)] == ["int8", "trellis"]
    with stored.map() as mapped:
        codes = mapped.tensors()[first + "_codes"].clone()
    assert torch.equal(codes, theirs(first, plain[first]).codes)


def test_quantized_source_takes_another_dtype(source):
    assert bake(source, dtype="bfloat16")[0].dtype == "bfloat16"


def test_quantized_source_of_an_unknown_kind_lists_what_is_supported(source):
    set_config(source, {"quant_method": "aqlm"})

    with pytest.raises(SourceError, match=r"quantized by 'aqlm'; supported: gptq .*nf4"):
        bake(source)


def test_quantized_source_with_a_missing_tensor_is_refused_before_it_is_loaded(source):
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.SCB"]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})

    with pytest.raises(SourceError, match=r"'model.layers.1.mlp.up_proj.weight'.* without a scale"):
        bake(source)

    assert not list((source.parent / "baked").iterdir())
