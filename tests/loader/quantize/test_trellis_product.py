"""A trellis' product by plain torch is that of its dequantized weight."""

import pytest
import torch

from pilotlight_loader import wide_product
from pilotlight_loader.quantize import trellis_layout, trellis_product
from pilotlight_loader.quantize.matrix import TrellisMatrix

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROUNDING = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 1e-5}


def some_weight(rows, columns, groups, dtype):
    """(packed, scales [groups, N], what they mean in float64)."""
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    scales = torch.randn(rows, groups, generator=generator).mul(0.01).to(dtype)
    dense = TrellisMatrix(codes, scales).dequantize().double()
    return trellis_layout.pack(codes), scales.t().contiguous(), dense


def some_x(rows, columns, dtype):
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, columns, generator=generator).to(dtype)


@pytest.mark.parametrize("lacks_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 5, 40])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_trellis_product_is_that_of_the_dequantized_weight(
    groups, rows, dtype, lacks_kernels, monkeypatch
) -> None:
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: lacks_kernels)
    packed, scales, dense = some_weight(96, 192, groups, dtype)
    x = some_x(rows, 192, dtype)
    actual, expected = trellis_product.linear(x, packed, scales), x.double() @ dense.t()

    assert (actual.shape, actual.dtype) == ((rows, 96), dtype)
    assert float((actual.double() - expected).norm()) <= ROUNDING[dtype] * float(expected.norm())


@pytest.mark.parametrize("elements", [1, 64 * 32, 64 * 32 * 3, 64 * 32 * 100])
def test_trellis_product_in_parts_is_the_same(elements, monkeypatch) -> None:
    """Of less than a block, of one, of a few with fewer left, of all at once."""
    packed, scales, dense = some_weight(7 * 32, 64, 2, torch.float32)
    x, parts = some_x(3, 64, torch.float32), []
    real = trellis_product.dequantized

    def noting(part, *given):
        parts.append(len(part))
        return real(part, *given)

    monkeypatch.setattr(trellis_product, "dequantized", noting)
    monkeypatch.setattr(trellis_product, "_CHUNK_ELEMENTS", elements)
    actual = trellis_product.linear(x, packed, scales)

    assert torch.allclose(actual.double(), x.double() @ dense.t(), rtol=1e-4, atol=1e-4)
    assert max(parts) <= max(32, elements // 64)
    assert sum(parts) == 7 * 32


@pytest.mark.parametrize("dtype", DTYPES)
def test_trellis_weight_is_rounded_once(dtype) -> None:
    packed, scales, dense = some_weight(64, 64, 2, torch.float32)
    found = trellis_product.dequantized(packed, scales, dtype)

    assert torch.equal(found, dense.float().to(dtype))
