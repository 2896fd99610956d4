from __future__ import annotations

import pytest
import torch
from support.quantized_layers import LAYER, WEIGHT, quantized_source

from pilotlight_loader.errors import QuantizedFormatError

SCALE = f"{WEIGHT}_scale_inv"
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
ROWS = {"quant_method": "fbgemm_fp8"}


def codes(rows=8, columns=24):
    torch.manual_seed(0)
    return torch.randn(rows, columns).to(torch.float8_e4m3fn)


def refused(directory, tensors, config, match):
    with pytest.raises(QuantizedFormatError, match=match):
        quantized_source(directory, tensors, config)


@pytest.mark.parametrize(
    ("config", "key", "scales"),
    [
        ({"quant_method": "fp8", "weight_block_size": None}, "weight_scale_inv", torch.tensor(0.5)),
        ({"quant_method": "fp8"}, "weight_scale", torch.tensor([0.5])),
        (ROWS, "weight_scale", torch.rand(8, 1)),
        (ROWS, "weight_scale", torch.rand(8)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "weight_scale", torch.tensor(2.0)),
        (BLOCKS, "weight_scale_inv", torch.rand(8, 1).bfloat16()),
    ],
)
def test_fp8_scales_of_rows_keep_the_codes(config, key, scales, tmp_path):
    tensors = {WEIGHT: codes(), f"{LAYER}.{key}": scales}

    matrix = quantized_source(tmp_path, tensors, config).matrix(WEIGHT)

    assert torch.equal(matrix.codes.view(torch.uint8), codes().view(torch.uint8))
    assert torch.equal(matrix.dequantize(), codes().float() * scales.float().view(-1, 1))


def test_fp8_blocks_at_the_ends_are_cut(tmp_path):
    weight, scales = codes(130, 200), torch.rand(2, 2)
    each = scales.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :200]

    read = quantized_source(tmp_path, {WEIGHT: weight, SCALE: scales}, BLOCKS).dense(WEIGHT)

    assert torch.equal(read, weight.float() * each)


def test_fp8_scales_may_be_powers_of_two_of_a_byte(tmp_path):
    scales = torch.tensor([[0.25, 4.0]]).to(torch.float8_e8m0fnu)

    source = quantized_source(tmp_path, {WEIGHT: codes(8, 256), SCALE: scales}, BLOCKS)

    expected = codes(8, 256).float() * torch.tensor([0.25, 4.0]).repeat_interleave(128)
    assert torch.equal(source.dense(WEIGHT), expected)


def test_fp8_scales_of_inputs_are_not_served(tmp_path):
    tensors = {WEIGHT: codes(), f"{LAYER}.input_scale": torch.tensor(1.0), SCALE: torch.ones(1)}

    assert quantized_source(tmp_path, tensors, ROWS).plain == ("model.norm.weight",)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({WEIGHT: codes()}, "has 0 of weight_scale and weight_scale_inv"),
        (
            {WEIGHT: codes(), SCALE: torch.ones(1), f"{LAYER}.weight_scale": torch.ones(1)},
            "has 2 of",
        ),
        ({WEIGHT: codes(), SCALE: torch.ones(1, 2)}, r"\[1, 2\], must be"),
        ({WEIGHT: codes(), SCALE: torch.ones(1).int()}, "is I32"),
        ({WEIGHT: codes()[None], SCALE: torch.ones(1)}, "2 dimensions"),
        (
            {WEIGHT: codes().float().to(torch.float8_e5m2), SCALE: torch.ones(1)},
            "no quantized|E5M2",
        ),
        ({SCALE: torch.ones(1)}, "no quantized weight"),
    ],
)
def test_fp8_broken_tensor_is_refused_by_name(tensors, match, tmp_path):
    refused(tmp_path, tensors, BLOCKS, f"{LAYER}.*{match}")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"must be \[rows, columns\]"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, r"must be \[rows, columns\]"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "supported: e4m3"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "'NVFP4', supported: FP8"),
    ],
)
def test_fp8_variant_that_is_not_read_is_refused(config, match, tmp_path):
    refused(tmp_path, {WEIGHT: codes(), SCALE: torch.ones(1)}, config, match)


def test_fp8_nan_in_blocks_is_refused(tmp_path):
    weight = codes(128, 128)
    weight.view(torch.uint8)[3, 3] = 0x7F
    source = quantized_source(tmp_path, {WEIGHT: weight, SCALE: torch.ones(1, 1)}, BLOCKS)

    with pytest.raises(QuantizedFormatError, match=f"{WEIGHT}.*NaN"):
        source.dense(WEIGHT)
