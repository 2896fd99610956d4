"""Codes, scales and zeros say one weight, or are refused."""

import pytest
import torch

from pilotlight_loader.quantize import matrix as module
from pilotlight_loader.quantize.matrix import Fp8Matrix, QuantizedMatrix, Scheme


def codes(bits: int) -> torch.Tensor:
    dtype = torch.int8 if bits == 8 else torch.uint8
    return torch.arange(16).view(2, 8).to(dtype)


def test_matrix_of_4_bits_counts_from_8() -> None:
    scales, zeros = torch.tensor([[1.0, 2.0]] * 2), torch.tensor([[0.5, 0.0]] * 2)
    weight = QuantizedMatrix(4, codes(4), scales, zeros).dequantize()

    assert weight[0].tolist() == [-7.5, -6.5, -5.5, -4.5, -8.0, -6.0, -4.0, -2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_in_parts_and_another_dtype_is_the_same_weight(dtype, monkeypatch) -> None:
    scales = torch.rand(5, 2)
    integers = QuantizedMatrix(8, torch.randint(-127, 128, (5, 8)).to(torch.int8), scales, scales)
    floats = Fp8Matrix(torch.randn(5, 8).to(torch.float8_e4m3fn), scales[:, :1])
    whole = [integers.dequantize(), floats.dequantize()]
    monkeypatch.setattr(module, "_PART_ELEMENTS", 16)

    for matrix, weight in zip((integers, floats), whole, strict=True):
        assert torch.equal(matrix.dequantize(dtype), weight.to(dtype))


def test_matrix_split_into_smaller_groups_is_the_same_weight() -> None:
    matrix = QuantizedMatrix(4, codes(4), torch.tensor([[1.0], [2.0]]))

    assert matrix.regrouped(2).scales.shape == (2, 4)
    assert torch.equal(matrix.regrouped(2).dequantize(), matrix.dequantize())
    with pytest.raises(ValueError, match="cannot be split"):
        matrix.regrouped(3)


@pytest.mark.parametrize(
    ("bits", "scales", "message"),
    [
        (8, torch.ones(2, 3), "do not fit"),
        (8, torch.full((2, 1), torch.nan), "NaN"),
        (8, torch.ones(2, 1, dtype=torch.int32), "no scales"),
        (8, torch.ones(3, 1), "do not fit"),
    ],
    ids=["groups", "nan", "integers", "rows"],
)
def test_matrix_with_wrong_scales_is_refused(bits, scales, message) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedMatrix(bits, codes(bits), scales)


def test_matrix_with_wrong_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than 15"):
        QuantizedMatrix(4, codes(4) + 1, torch.ones(2, 1))
    with pytest.raises(ValueError, match="codes"):
        QuantizedMatrix(8, codes(4), torch.ones(2, 1))
    with pytest.raises(ValueError, match="NaN"):
        Fp8Matrix(torch.full((2, 2), torch.nan).to(torch.float8_e4m3fn), torch.ones(2, 1))


def test_scheme_whose_group_does_not_divide_is_refused() -> None:
    assert Scheme("int4", 128).groups(256) == 2
    with pytest.raises(ValueError, match="do not divide 200"):
        Scheme("int4", 128).groups(200)
