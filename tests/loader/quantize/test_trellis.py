"""What codes of a trellis mean, and that kernels have room for it."""

import torch

from pilotlight_loader.kernels import trellis_unit
from pilotlight_loader.quantize.trellis import MEMORY, TABLES, numbers
from pilotlight_loader.quantize.trellis_search import nothing_before

T0, T1, T2 = TABLES
LARGEST_OF_X = 32767  # 16-bit integers: short_rows.py


def every_code_after_any_two() -> torch.Tensor:
    """All 4096, each in a row of its own."""
    codes = torch.arange(16**3)
    return torch.stack((codes >> 8, codes >> 4 & 15, codes & 15), 1).to(torch.uint8)


def test_numbers_of_the_first_columns_follow_codes_of_zero() -> None:
    codes = torch.tensor([[3, 5, 7, 11, 0]], dtype=torch.uint8)

    assert numbers(codes)[0].tolist() == [
        T0[3] + T1[0] + T2[0],
        T0[5] + T1[3] + T2[0],
        T0[7] + T1[5] + T2[3],
        T0[11] + T1[7] + T2[5],
        T0[0] + T1[11] + T2[7],
    ]


def test_numbers_of_fewer_columns_than_are_looked_back_on() -> None:
    assert numbers(torch.tensor([[9]], dtype=torch.uint8)).tolist() == [[T0[9] + T1[0] + T2[0]]]


def test_numbers_of_a_row_are_not_of_the_row_before() -> None:
    codes = torch.randint(0, 16, (3, 8), generator=torch.Generator().manual_seed(0))
    together = numbers(codes.to(torch.uint8))

    assert together.dtype == torch.int8
    for row, alone in zip(codes.to(torch.uint8), together, strict=True):
        assert torch.equal(numbers(row[None])[0], alone)


def test_numbers_fit_8_bits_whatever_comes_before() -> None:
    """As sums of wide integers, and so without a carry on the way."""
    codes = every_code_after_any_two().long()
    tables = torch.tensor(TABLES)
    exact = tables[0][codes[:, 2]] + tables[1][codes[:, 1]] + tables[2][codes[:, 0]]

    assert (int(exact.min()), int(exact.max())) == (-127, 125)
    assert torch.equal(numbers(every_code_after_any_two())[:, 2].long(), exact)


def test_numbers_with_the_kernels_offset_are_bytes_without_a_sign() -> None:
    found = numbers(every_code_after_any_two())[:, 2].long() + trellis_unit.OFFSET

    assert int(found.min()) >= 0
    assert int(found.max()) <= 255


def test_sums_of_the_largest_group_fit_32_bits() -> None:
    """Of 256 columns (stored.py has no more), whose products of one row a lane adds up."""
    largest = int(numbers(every_code_after_any_two()).long().max()) + trellis_unit.OFFSET

    assert largest * LARGEST_OF_X * 256 < 1 << 31


def test_first_table_ascends_as_the_search_needs_it() -> None:
    assert list(T0) == sorted(set(T0))
    assert len(T0) == len(T1) == len(T2) == 16
    assert nothing_before(5).shape == (5, MEMORY)
