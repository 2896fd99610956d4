"""Numbers of x are the nearest of 65,535 that its row and group have."""

import pytest
import torch

from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.kernels.int4_product import Int4Product
from pilotlight_loader.kernels.int8_product import Int8Product
from pilotlight_loader.quantize import int4_layout

STEP = 1 / 32767  # of a number, where the largest is 1


@pytest.fixture(scope="module")
def compiler():
    pytest.importorskip("llvmlite")
    return Compiler()


@pytest.fixture(scope="module", params=["int8", "int4"])
def total(request, compiler):
    """The sums of x' rows [rows, 64] without their first columns, as products give them."""
    if request.param == "int8":
        codes = torch.ones(32, 64).to(torch.int8)
        codes[:, 0] = 0
        scales, int8 = torch.ones(32).bfloat16(), Int8Product(compiler)
        return lambda x: int8.rows(x, codes, scales)[:, 0].double()
    codes = torch.full((32, 64), 9).to(torch.uint8)
    codes[:, 0] = 8
    packed, int4 = int4_layout.pack(codes, 32), Int4Product(compiler, 32)
    pairs = int4_layout.pack_scales(torch.ones(32, 1).bfloat16(), None)
    return lambda x: int4.rows(x, packed, pairs)[:, 0].double()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("steps", "nearest"), [(0.25, 0), (0.75, 1), (-0.75, -1), (1.25, 1)])
def test_numbers_are_the_nearest(total, rows, steps, nearest) -> None:
    x = torch.full((rows, 64), steps * STEP).bfloat16()
    x[:, 0] = 1

    assert torch.allclose(
        total(x), torch.tensor(63 * nearest * STEP).double(), rtol=0.01, atol=1e-5
    )


@pytest.mark.parametrize("rows", [1, 5])
def test_numbers_are_those_of_their_own_row(total, rows) -> None:
    """A row of small numbers is as exact beside one of large ones."""
    x = torch.full((rows, 64), 0.75 * STEP).bfloat16()
    x[0, 0] = 1000

    expected = torch.full((rows,), 63 * 0.75 * STEP).double()
    expected[0] = 0
    assert torch.allclose(total(x), expected, rtol=0.01, atol=1e-5)
