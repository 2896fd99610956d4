from __future__ import annotations

import json

import pytest
import torch
from support.quantized_layers import WEIGHT, golden, golden_names, quantized_source

from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.quantize.formats.config import in_config, read_config
from pilotlight_loader.quantize.formats.recognize import recognize

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def write(directory, name, content):
    (directory / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", golden_names())
def test_recognize_names_the_method(name):
    config = golden(name)[1]

    assert recognize(config, "a").name.startswith(config["quant_method"])


def test_recognize_takes_bitsandbytes_that_does_not_say_so():
    assert recognize({"load_in_8bit": True}, "a").name == "bitsandbytes, 8 bits"


@pytest.mark.parametrize("method", ["aqlm", "mxfp4", "hqq", None, 4, "", "x" * 10_000])
def test_recognize_lists_what_is_supported(method):
    with pytest.raises(QuantizedFormatError) as raised:
        recognize({"quant_method": method}, "/models/a/config.json")

    message = str(raised.value)
    assert message.startswith("/models/a/config.json: quantized by")
    for kind in ("gptq", "awq", "compressed-tensors", "bitsandbytes", "nf4", "fp8"):
        assert kind in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "content",
    [
        {"quantization_config": GPTQ},
        {"compression_config": GPTQ},
        {"text_config": {"quantization_config": GPTQ}},
    ],
)
def test_in_config_finds_the_config(content):
    assert in_config(content, "a") == GPTQ


@pytest.mark.parametrize("content", [{}, {"quantization_config": None}, {"text_config": 3}])
def test_in_config_finds_none(content):
    assert in_config(content, "a") is None


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128, "version": "GEMM"}, "awq"),
    ],
)
def test_read_config_takes_the_older_files(name, content, method, tmp_path):
    write(tmp_path, "config.json", {"model_type": "llama"})
    write(tmp_path, name, content)

    config = read_config(tmp_path)

    assert recognize(config, "a").name.startswith(method)


def test_read_config_is_none_without_one(tmp_path):
    write(tmp_path, "config.json", {"model_type": "llama"})

    assert read_config(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"quantization_config": 3}'])
def test_read_config_names_a_broken_file(text, tmp_path):
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(QuantizedFormatError, match=r"config\.json"):
        read_config(tmp_path)


def test_source_without_a_quantized_tensor_is_refused(tmp_path):
    with pytest.raises(QuantizedFormatError, match="no tensor is quantized"):
        quantized_source(tmp_path, {}, GPTQ)


def test_source_with_a_weight_twice_is_refused(tmp_path):
    tensors, config, expected = golden("gptq-4-128")

    with pytest.raises(QuantizedFormatError, match="both quantized and not"):
        quantized_source(tmp_path, tensors | {WEIGHT: expected}, config)


def test_source_gives_plain_tensors_as_they_are(tmp_path):
    tensors, config, _ = golden("gptq-4-128")

    source = quantized_source(tmp_path, tensors, config)

    assert source.plain == ("model.norm.weight",)
    assert torch.equal(source.dense("model.norm.weight"), torch.ones(4))
