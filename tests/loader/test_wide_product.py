"""Products of 16-bit rows in float32, where a CPU has no kernels for them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pilotlight_loader import wide_product
from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_product import BfloatProduct
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.wide_product import WideLinear

ROWS, COLUMNS = 96, 160


def _states(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without kernels: it is right on any. The weight is taken in four parts."""
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: True)
    monkeypatch.setattr(wide_product, "_PART_ELEMENTS", ROWS * COLUMNS // 4)
    monkeypatch.setattr(chosen, "bfloat_product", lambda: None)


@pytest.fixture(scope="module")
def kernel() -> BfloatProduct:
    pytest.importorskip("llvmlite")
    return BfloatProduct(Compiler())


@pytest.fixture
def compiled(lacking: None, kernel: BfloatProduct, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same with a kernel for few rows; how many it was given each time."""
    asked = []
    rows = kernel.rows

    def noting(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        asked.append(x.numel() // x.shape[-1])
        return rows(x, weight, bias)

    monkeypatch.setattr(kernel, "rows", noting)
    monkeypatch.setattr(chosen, "bfloat_product", lambda: kernel)
    return asked


def _layer() -> WideLinear:
    layer = WideLinear(COLUMNS, ROWS, dtype=torch.bfloat16)
    layer.weight.data, layer.bias.data = _states((ROWS, COLUMNS)), _states((ROWS,))
    return layer


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8, COLUMNS), (2, 5, COLUMNS)])
def test_wide_linear_is_the_product_and_its_bias(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer, x = _layer().to(dtype), _states(shape, dtype)
    assert wide_product.takes(x, layer.weight)
    with torch.no_grad():
        actual = layer(x)
    expected = functional.linear(x.double(), layer.weight.double(), layer.bias.double())

    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=0.01, atol=0.1)


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize(
    ("shape", "dtype"), [((7, COLUMNS), torch.bfloat16), ((8, COLUMNS), torch.float32)]
)
def test_wide_linear_has_for_the_rest_the_bits_of_linear(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer, x = _layer().to(dtype), _states(shape, dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_wide_linear_with_kernels_has_the_bits_of_linear(monkeypatch) -> None:
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: False)
    layer, x = _layer(), _states((16, COLUMNS))
    with torch.no_grad():
        assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))


@pytest.mark.usefixtures("lacking")
def test_wide_linear_can_be_rehearsed_without_weights() -> None:
    layer = _layer().to("meta")

    assert layer(torch.empty(16, COLUMNS, dtype=torch.bfloat16, device="meta")).shape == (16, ROWS)


@pytest.mark.usefixtures("lacking")
def test_wide_linear_rounds_once() -> None:
    """Sums in 16 bits would lose what is small beside what is large."""
    weight = torch.ones(8, COLUMNS, dtype=torch.bfloat16)
    x = torch.full((8, COLUMNS), 1 / 256, dtype=torch.bfloat16)
    x[:, 0] = 1

    assert float(wide_product.linear(x, weight)[0, 0]) == 1.625  # 1 + 159 / 256 as bf16 has it


@pytest.mark.parametrize("shape", [(1, COLUMNS), (2, 5, COLUMNS), (64, COLUMNS)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_wide_linear_of_few_rows_is_compiled(
    compiled: list[int], shape: tuple[int, ...], has_bias: bool
) -> None:
    layer, x = _layer(), _states(shape)
    if not has_bias:
        layer.bias = None
    with torch.no_grad():
        actual = layer(x)
    bias = layer.bias.double() if has_bias else None
    expected = functional.linear(x.double(), layer.weight.double(), bias)

    assert compiled == [x[..., 0].numel()]
    assert actual.dtype == torch.bfloat16
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=0.01, atol=0.01)


def test_wide_linear_of_few_rows_takes_any_strides(compiled: list[int]) -> None:
    layer, x = _layer(), _states((COLUMNS, 3)).t()
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x.contiguous()))
    assert compiled == [3, 3]


@pytest.mark.parametrize(
    ("rows", "columns", "stride"), [(0, 160, 1), (65, 160, 1), (3, 150, 1), (3, 160, 2)]
)
def test_wide_linear_compiles_nothing_that_does_not_fit(
    compiled: list[int], rows: int, columns: int, stride: int
) -> None:
    layer = WideLinear(columns, ROWS, bias=False, dtype=torch.bfloat16)
    layer.weight.data = _states((ROWS, columns * stride))[:, ::stride]
    x = _states((rows, columns))
    with torch.no_grad():
        actual = layer(x)

    expected = x.double() @ layer.weight.double().t()
    torch.testing.assert_close(actual.double(), expected, rtol=0.01, atol=0.1)
    assert compiled == []


def test_wide_linear_takes_a_bias_of_any_stride(compiled: list[int]) -> None:
    weight, x, bias = _states((ROWS, COLUMNS)), _states((3, COLUMNS)), _states((ROWS, 2))[:, 0]

    expected = wide_product.linear(x, weight, bias.contiguous())
    assert torch.equal(wide_product.linear(x, weight, bias), expected)
    assert compiled == [3, 3]


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_wide_linear_keeps_a_parameters_gradient(compiled: list[int], name: str) -> None:
    layer = _layer().requires_grad_(False)
    parameter = layer.get_parameter(name).requires_grad_()
    layer(_states((3, COLUMNS))).sum().backward()

    assert parameter.grad is not None
    assert compiled == []


@pytest.mark.usefixtures("compiled")
def test_wide_linear_of_no_columns_is_its_bias() -> None:
    bias = _states((ROWS,))
    layer = WideLinear(COLUMNS, ROWS, dtype=torch.bfloat16)
    layer.weight.data, layer.bias.data = _states((ROWS, 0)), bias

    assert layer(_states((9, 0))).eq(bias).all()


def test_wide_lacks_no_kernels_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())

    assert not wide_product.lacks_kernels.__wrapped__()


def test_wide_linear_keeps_gradients(compiled: list[int]) -> None:
    layer, x = _layer(), _states((3, COLUMNS)).requires_grad_()
    layer(x).sum().backward()

    assert x.grad is not None
    assert compiled == []


@pytest.mark.usefixtures("compiled")
def test_wide_prepare_compiles_where_kernels_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(chosen, "bfloat_product", lambda: asked.append(True))
    wide_product.prepare()
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: False)
    wide_product.prepare()

    assert asked == [True]


def test_wide_linear_adds_a_bias_before_it_rounds(compiled: list[int]) -> None:
    """Rounded by itself, 257 is 256 in bf16: the next number is 258."""
    weight = torch.ones(4, 16, dtype=torch.bfloat16)
    bias = torch.full((4,), 1.0, dtype=torch.bfloat16)
    for rows in (1, 2, 4, 5, 65):  # compiled kernels, and parts in float32
        x = torch.zeros(rows, 16, dtype=torch.bfloat16)
        x[:, 0], x[:, 1] = 256, 1

        assert wide_product.linear(x, weight, bias).eq(258).all()
    assert compiled == [1, 2, 4, 5]


@pytest.mark.parametrize("shape", [(2, COLUMNS // 2), (COLUMNS, 8)])
def test_wide_linear_leaves_other_columns_to_linear(
    compiled: list[int], shape: tuple[int, ...]
) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes"):
        _layer()(_states(shape))
    assert compiled == []


@pytest.mark.parametrize("rows", [3, 80])
def test_wide_linear_leaves_a_bias_of_another_dtype_to_linear(
    compiled: list[int], rows: int
) -> None:
    layer = _layer()
    layer.bias.data = layer.bias.data.float()

    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(_states((rows, COLUMNS)))
    assert compiled == []


@pytest.mark.parametrize("lacks", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 9])
def test_wide_matmul_writes_a_part_of_a_product(monkeypatch, lacks, dtype, rows) -> None:
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: lacks)
    monkeypatch.setattr(wide_product, "_PART_ELEMENTS", ROWS * COLUMNS // 4)
    x, weight = _states((rows, COLUMNS), dtype), _states((ROWS, COLUMNS), dtype).t().contiguous()
    product = torch.zeros(rows, 2 * ROWS, dtype=dtype)
    wide_product.matmul(x, weight, product[:, ROWS:])

    expected = x.double() @ weight.double()
    torch.testing.assert_close(product[:, ROWS:].double(), expected, rtol=0.01, atol=0.1)
    assert not product[:, :ROWS].any()
