"""The bytes of a trellis' codes stand where kernels look for them."""

import pytest
import torch

from pilotlight_loader.quantize import trellis_layout

# Rows of a half as AVX2 takes bytes apart: by fours, the middle ones exchanged.
ROWS = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]


def some_codes(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("shape", [(32, 2), (32, 96), (96, 32), (160, 66)])
def test_trellis_layout_is_undone(shape) -> None:
    codes = some_codes(*shape)

    assert torch.equal(trellis_layout.unpack(trellis_layout.pack(codes)), codes)


@pytest.mark.parametrize("shape", [(32, 2), (64, 6), (96, 32)])
def test_trellis_layout_has_each_code_where_it_says(shape) -> None:
    rows, columns = shape
    codes = some_codes(rows, columns)
    packed = trellis_layout.pack(codes)
    data = packed.flatten().tolist()
    expected = []
    for block in range(0, rows, 32):
        for pair in range(0, columns, 2):
            for row in ROWS:
                for column in (pair, pair + 1):
                    low, high = codes[block + row, column], codes[block + row + 16, column]
                    expected.append(int(low) | int(high) << 4)

    assert packed.shape == (rows, columns // 2)
    assert packed.is_contiguous()
    assert data == expected


def test_trellis_layout_of_a_part_of_whole_blocks_is_that_part() -> None:
    """So that products may take some rows at a time."""
    codes = some_codes(96, 32)

    assert torch.equal(trellis_layout.pack(codes)[32:64], trellis_layout.pack(codes[32:64]))


def test_trellis_layout_unfolds_as_avx2_does() -> None:
    """Of two lanes of 16 bytes, unpacklo and unpackhi take the first and the last 8 of each."""
    rows = [row for row in trellis_layout.ROW_ORDER for _ in range(2)]  # two columns each
    lanes = rows[:16], rows[16:]
    first, last = (
        [row for lane in lanes for row in lane[half]] for half in (slice(8), slice(8, 16))
    )

    assert first[::2] == list(range(8))
    assert last[::2] == list(range(8, 16))
