"""One row times a plain bf16 weight."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pilotlight_loader import row_product
from pilotlight_loader.row_product import RowLinear

ROWS, COLUMNS = 96, 160  # 15,360 elements: more than oneDNN leaves to torch anyway


def _states(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU where the product is used: it is right on any."""
    monkeypatch.setattr(row_product, "_MEASURED", torch.backends.cpu.get_cpu_capability())


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("shape", [(1, COLUMNS), (1, 1, COLUMNS), (COLUMNS,)])
def test_row_linear_is_the_product_and_its_bias(shape: tuple[int, ...]) -> None:
    x, weight, bias = _states(shape), _states((ROWS, COLUMNS)), _states((ROWS,))
    assert row_product.takes(x, weight)
    expected = functional.linear(x.double(), weight.double(), bias.double())
    actual = row_product.row_linear(x, weight, bias)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=0.01, atol=0.1)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, COLUMNS), torch.bfloat16), ((1, COLUMNS), torch.float32)]
)
def test_row_linear_layer_has_for_the_rest_the_bits_of_linear(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer = RowLinear(COLUMNS, ROWS).to(dtype).requires_grad_(False)
    x = _states(shape, dtype)
    assert not row_product.takes(x, layer.weight)
    assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))


@pytest.mark.usefixtures("measured")
def test_row_linear_layer_gives_one_row_to_torchs_own_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    def noting(*args: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._get_mkldnn_enabled())
        return functional.linear(*args)

    layer = RowLinear(COLUMNS, ROWS).bfloat16().requires_grad_(False)
    x = _states((1, 1, COLUMNS))
    expected = layer(x)
    monkeypatch.setattr(row_product, "linear", noting)
    assert torch.equal(layer(x), expected)
    assert seen == [False]


def test_row_linear_leaves_onednn_as_it_was_also_after_an_error() -> None:
    assert torch._C._get_mkldnn_enabled()
    with pytest.raises(RuntimeError):
        row_product.row_linear(_states((1, COLUMNS)), _states((ROWS, COLUMNS + 1)), None)
    row_product.row_linear(_states((1, COLUMNS)), _states((ROWS, COLUMNS)), None)
    assert torch._C._get_mkldnn_enabled()
