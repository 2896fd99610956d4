from __future__ import annotations

import pytest
import torch
from support.quantized_layers import LAYER, WEIGHT, golden, quantized_source

from pilotlight_loader.errors import QuantizedFormatError


def refused(directory, tensors, config, match):
    with pytest.raises(QuantizedFormatError, match=match):
        quantized_source(directory, tensors, config)


def test_awq_nibble_is_the_column_that_the_interleaving_says(tmp_path):
    """AutoAWQ packs with order_map = [0, 2, 4, 6, 1, 3, 5, 7]: nibble i is column order_map[i]."""
    word = sum(column << 4 * nibble for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    word -= (word >> 31) << 32
    tensors = {
        f"{LAYER}.qweight": torch.full((32, 1), word, dtype=torch.int32),
        f"{LAYER}.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        f"{LAYER}.scales": torch.ones(1, 8).half(),
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}

    read = quantized_source(tmp_path, tensors, config).dense(WEIGHT)

    assert torch.equal(read, torch.arange(8.0)[:, None].expand(8, 32))


def test_awq_older_names_of_the_config_are_read(tmp_path):
    tensors, _, expected = golden("awq-4-64")
    older = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"}

    assert torch.equal(quantized_source(tmp_path, tensors, older).dense(WEIGHT).half(), expected)


@pytest.mark.parametrize("key", ["qzeros", "scales"])
def test_awq_missing_tensor_is_named(key, tmp_path):
    tensors, config, _ = golden("awq-4-64")
    del tensors[f"{LAYER}.{key}"]

    refused(tmp_path, tensors, config, f"{LAYER}.{key}.*missing")


@pytest.mark.parametrize(
    ("key", "spoil", "match"),
    [
        ("qweight", lambda t: t[:-1], "do not divide 255 columns"),
        ("qweight", lambda t: t.float(), "is F32, must be I32"),
        ("qzeros", lambda t: t[1:], r"\[3, 8\], must be \[4, 8\]"),
        ("scales", lambda t: t.t(), "must be"),
    ],
)
def test_awq_broken_tensor_is_refused_by_name(key, spoil, match, tmp_path):
    tensors, config, _ = golden("awq-4-64")
    tensors[f"{LAYER}.{key}"] = spoil(tensors[f"{LAYER}.{key}"])

    refused(tmp_path, tensors, config, f"{LAYER}.{key}.*{match}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": "gemv"}, "version is 'gemv', supported: gemm"),
        ({"version": "gemv_fast"}, "supported: gemm"),
        ({"bits": 8}, "bits is 8, supported: 4"),
        ({"zero_point": False}, "zero_point is false"),
        ({"group_size": -2}, "group_size is -2"),
    ],
)
def test_awq_variant_that_is_not_read_is_refused(change, match, tmp_path):
    tensors, config, _ = golden("awq-4-64")

    refused(tmp_path, tensors, config | change, match)
