"""Codes, scales and zeros say one weight, or are refused."""

import pytest
import torch

from pilotlight_loader.quantize import matrix as module
from pilotlight_loader.quantize.matrix import Fp8Matrix, QuantizedMatrix, Scheme, TrellisMatrix
from pilotlight_loader.quantize.trellis import TABLES


def codes(bits: int) -> torch.Tensor:
    dtype = torch.int8 if bits == 8 else torch.uint8
    return torch.arange(16).view(2, 8).to(dtype)


def test_matrix_of_4_bits_counts_from_8() -> None:
    scales, zeros = torch.tensor([[1.0, 2.0]] * 2), torch.tensor([[0.5, 0.0]] * 2)
    weight = QuantizedMatrix(4, codes(4), scales, zeros).dequantize()

    assert weight[0].tolist() == [-7.5, -6.5, -5.5, -4.5, -8.0, -6.0, -4.0, -2.0]


def by_the_book(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Number by number."""
    rows, columns = codes.shape
    weight = torch.empty(rows, columns, dtype=torch.float64)
    for row in range(rows):
        for at in range(columns):
            read = [int(codes[row, at - back]) if at >= back else 0 for back in range(3)]
            number = sum(table[code] for table, code in zip(TABLES, read, strict=True))
            weight[row, at] = number * float(scales[row, at * scales.shape[1] // columns])
    return weight


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_trellis_matrix_reads_a_weight_from_three_codes(groups) -> None:
    generator = torch.Generator().manual_seed(groups)
    codes = torch.randint(0, 16, (7, 24), generator=generator).to(torch.uint8)
    scales = torch.randn(7, groups, generator=generator).bfloat16()
    matrix = TrellisMatrix(codes, scales)

    assert (matrix.shape, matrix.group) == ((7, 24), 24 // groups)
    assert torch.equal(matrix.dequantize().double(), by_the_book(codes, scales).float().double())


def test_trellis_matrix_of_no_scale_is_zero() -> None:
    scales = torch.tensor([[0.0, 1.0]] * 2)
    weight = TrellisMatrix(codes(4), scales).dequantize()

    assert not weight[:, :4].any()
    assert weight[:, 4:].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_in_parts_and_another_dtype_is_the_same_weight(dtype, monkeypatch) -> None:
    scales = torch.rand(5, 2)
    integers = QuantizedMatrix(8, torch.randint(-127, 128, (5, 8)).to(torch.int8), scales, scales)
    floats = Fp8Matrix(torch.randn(5, 8).to(torch.float8_e4m3fn), scales[:, :1])
    trellis = TrellisMatrix(torch.randint(0, 16, (5, 8)).to(torch.uint8), scales)
    whole = [integers.dequantize(), floats.dequantize(), trellis.dequantize()]
    monkeypatch.setattr(module, "_PART_ELEMENTS", 16)

    for matrix, weight in zip((integers, floats, trellis), whole, strict=True):
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


@pytest.mark.parametrize(
    ("codes", "scales", "message"),
    [
        (codes(4) + 1, torch.ones(2, 1), "larger than 15"),
        (codes(8), torch.ones(2, 1), "are no codes"),
        (codes(4)[0], torch.ones(2, 1), "are no codes"),
        (codes(4)[:, :0], torch.ones(2, 1), "are no codes"),
        (codes(4), torch.ones(2, 3), "do not fit"),
        (codes(4), torch.ones(3, 1), "do not fit"),
        (codes(4), torch.ones(2, 0), "do not fit"),
        (codes(4), torch.ones(2), "are no scales"),
        (codes(4), torch.ones(2, 1, dtype=torch.int32), "are no scales"),
        (codes(4), torch.tensor([[1.0], [torch.nan]]), "NaN or infinite"),
        (codes(4), torch.tensor([[1.0], [-torch.inf]]), "NaN or infinite"),
    ],
    ids=[
        *("large code", "signed codes", "one row", "no codes", "groups", "rows", "no groups"),
        *("one line", "integers", "nan", "infinite"),
    ],
)
def test_trellis_matrix_of_wrong_parts_is_refused(codes, scales, message) -> None:
    with pytest.raises(ValueError, match=message):
        TrellisMatrix(codes, scales)


def test_scheme_whose_group_does_not_divide_is_refused() -> None:
    assert Scheme("int4", 128).groups(256) == 2
    with pytest.raises(ValueError, match="do not divide 200"):
        Scheme("int4", 128).groups(200)
