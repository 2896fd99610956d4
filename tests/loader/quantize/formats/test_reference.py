"""What is read of a published format is what the format's own package makes of it."""

from __future__ import annotations

import pytest
import torch
from support.quantized_layers import WEIGHT, golden, golden_names, quantized_source
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from pilotlight_loader.quantize.matrix import Fp8Matrix, Scheme

DENSE = {"gptq-4-act", "ct-int4-act", "ct-fp8-block", "bnb-nf4", "bnb-nf4-nested"}
DENSE |= {"bnb-fp4-nested"}
SCHEMES = {
    "gptq-4-128": Scheme("int4", 128),
    "gptq-4-32": Scheme("int4", 32),
    "gptq-4-row": Scheme("int4"),
    "gptq-8-128": Scheme("int8", 128),
    "gptq-4-any-zero": Scheme("int4", 128),
    "awq-4-64": Scheme("int4", 64),
    "awq-4-row": Scheme("int4"),
    "bnb-int8": Scheme("int8"),
    "ct-int4-group": Scheme("int4", 64),
    "ct-int4-group-zeros": Scheme("int4", 64),
    "ct-int8-row-zeros": Scheme("int8"),
    "ct-int8-row": Scheme("int8"),
    "ct-int8-tensor-zeros": Scheme("int8"),
    "ct-fp8-row": Scheme("fp8"),
    "ct-fp8-tensor": Scheme("fp8"),
}


@pytest.mark.parametrize("name", golden_names())
def test_dense_has_the_bits_of_the_formats_own_package(name, tmp_path):
    tensors, config, expected = golden(name)
    source = quantized_source(tmp_path, tensors, config)

    read = source.dense(WEIGHT).to(expected.dtype)

    assert read.shape == source.weights[WEIGHT].shape
    if name == "bnb-int8":  # it multiplies with 0.007874, a rounded 1 / 127
        torch.testing.assert_close(read, expected, rtol=2e-5, atol=0)
    else:
        assert torch.equal(read, expected)


@pytest.mark.parametrize("name", golden_names())
def test_matrix_keeps_the_codes_where_a_grid_of_ours_has_them(name, tmp_path):
    tensors, config, expected = golden(name)
    source = quantized_source(tmp_path, tensors, config)

    matrix = source.matrix(WEIGHT)

    assert source.weights[WEIGHT].scheme == SCHEMES.get(name)
    assert (matrix is None) == (name in DENSE)
    if matrix is not None:
        scheme = SCHEMES[name]
        assert matrix.shape == expected.shape
        assert torch.equal(matrix.dequantize(), source.dense(WEIGHT))
        if isinstance(matrix, Fp8Matrix):
            assert scheme.kind == "fp8"
        else:
            assert (matrix.bits, matrix.group % matrix.shape[1]) == (
                int(scheme.kind.removeprefix("int")),
                scheme.group,
            )


@pytest.mark.parametrize("scale", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_fp8_in_blocks_has_the_bits_of_transformers(scale, tmp_path):
    torch.manual_seed(0)
    codes = torch.randn(256, 384)[: 128 * scale[0], : 128 * scale[1]].to(torch.float8_e4m3fn)
    scales = torch.rand(scale)
    tensors = {WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}

    read = quantized_source(tmp_path, tensors, config).dense(WEIGHT)

    assert torch.equal(read, Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32))
