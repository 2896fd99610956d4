from __future__ import annotations

import json

import pytest
import torch
from support.quantized_layers import LAYER, WEIGHT, golden, quantized_source

from pilotlight_loader.errors import QuantizedFormatError

STATE = f"{WEIGHT}.quant_state.bitsandbytes__nf4"
ABSMAX, NESTED = f"{WEIGHT}.absmax", f"{WEIGHT}.nested_absmax"


def refused(directory, tensors, config, match):
    with pytest.raises(QuantizedFormatError, match=match):
        quantized_source(directory, tensors, config)


def with_state(tensors, **changes):
    state = json.loads(bytes(tensors[STATE].tolist())) | changes
    return tensors | {STATE: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_bitsandbytes_storage_may_have_another_dtype(storage, tmp_path):
    tensors, config, expected = golden("bnb-nf4-nested")
    tensors[WEIGHT] = tensors[WEIGHT].view(-1).view(storage)[:, None]

    source = quantized_source(tmp_path, tensors, config)

    assert torch.equal(source.dense(WEIGHT).to(expected.dtype), expected)


@pytest.mark.parametrize("name", [ABSMAX, f"{WEIGHT}.quant_map", f"{WEIGHT}.nested_quant_map"])
def test_bitsandbytes_missing_tensor_is_named(name, tmp_path):
    tensors, config, _ = golden("bnb-nf4-nested")
    del tensors[name]

    refused(tmp_path, tensors, config, f"{name}.*missing")


def test_bitsandbytes_without_its_state_is_refused(tmp_path):
    tensors, config, _ = golden("bnb-nf4")
    del tensors[STATE]

    refused(tmp_path, tensors, config, f"{LAYER}.*(no quantized weight|without a scale)")


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        (WEIGHT, lambda t: t[:-1], "do not hold 16384 codes"),
        (WEIGHT, lambda t: torch.cat((t, t)), "do not hold 16384 codes"),
        (ABSMAX, lambda t: t[:-1], r"\[255\], must be \[256\]"),
        (ABSMAX, lambda t: t.float(), "is F32, must be U8"),
        (NESTED, lambda t: t.repeat(2), r"\[2\], must be \[1\]"),
        (f"{WEIGHT}.quant_map", lambda t: t[:15], r"must be \[16\]"),
        (f"{WEIGHT}.nested_quant_map", lambda t: t[:255], r"must be \[256\]"),
        (STATE, lambda t: t[:-1], "is no state"),
        (STATE, lambda t: t.repeat(1000), "at most 65536"),
    ],
)
def test_bitsandbytes_broken_tensor_is_refused_by_name(name, spoil, match, tmp_path):
    tensors, config, _ = golden("bnb-nf4-nested")
    tensors[name] = spoil(tensors[name])

    refused(tmp_path, tensors, config, f"{name}.*{match}")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": [32]}, r"must be \[N, K\]"),
        ({"shape": [0, 8192]}, r"must be \[N, K\]"),
        ({"shape": [2**40, 2**40]}, "do not hold"),
        ({"blocksize": 0}, "blocksize is 0"),
        ({"blocksize": 64.0}, "whole number"),
        ({"nested_blocksize": -1}, "nested_blocksize is -1"),
        ({"nested_offset": "0"}, "must be a number"),
        ({"quant_type": "fp4"}, "says fp4"),
        ({"quant_type": "int4"}, "supported: nf4, fp4"),
    ],
)
def test_bitsandbytes_broken_state_is_refused(changes, match, tmp_path):
    tensors, config, _ = golden("bnb-nf4-nested")

    refused(tmp_path, with_state(tensors, **changes), config, match)


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-nf4-nested"])
def test_bitsandbytes_absmax_must_be_finite(name, tmp_path):
    tensors, config, _ = golden(name)
    largest = NESTED if NESTED in tensors else ABSMAX
    tensors[largest][0] = float("nan")
    source = quantized_source(tmp_path, tensors, config)

    with pytest.raises(QuantizedFormatError, match=f"{largest}.*NaN"):
        source.dense(WEIGHT)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"load_in_4bit": False}, "must be true"),
        ({"load_in_8bit": True}, "must be true"),
        ({"bnb_4bit_quant_type": "af4"}, "supported: nf4, fp4"),
    ],
)
def test_bitsandbytes_config_that_is_not_read_is_refused(changes, match, tmp_path):
    tensors, config, _ = golden("bnb-nf4")

    refused(tmp_path, tensors, config | changes, match)


@pytest.mark.parametrize(
    ("key", "spoil", "match"),
    [
        ("SCB", lambda t: t[:-1], "must be"),
        ("weight", lambda t: t.int(), "is I32, must be I8"),
        ("weight_format", lambda t: t + 1, "is not 0"),
    ],
)
def test_bitsandbytes_int8_broken_tensor_is_refused_by_name(key, spoil, match, tmp_path):
    tensors, config, _ = golden("bnb-int8")
    tensors[f"{LAYER}.{key}"] = spoil(tensors[f"{LAYER}.{key}"])

    refused(tmp_path, tensors, config, f"{LAYER}.{key}.*{match}")


def test_bitsandbytes_int8_without_scales_is_refused(tmp_path):
    tensors, config, _ = golden("bnb-int8")
    del tensors[f"{LAYER}.SCB"]

    refused(tmp_path, tensors, config, f"{WEIGHT}.*without a scale")
