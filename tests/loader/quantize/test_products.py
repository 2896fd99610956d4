"""Every kernel computes what the codes stand for, and says so where there are no numbers."""

import pytest
import torch

from pilotlight_loader import wide_product
from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.int4_product import Int4Product, TrellisProduct
from pilotlight_loader.kernels.int8_product import Int8Product
from pilotlight_loader.kernels.trellis_weight import TrellisWeight
from pilotlight_loader.quantize import device_layout, int4_layout, products, trellis_product
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.stored import StoredMatrix

ROWS = [1, 3, 4, 5, 16, 17, 32, 33]
SCHEMES = [INT8, INT4, Scheme("int4", 32), TRELLIS, Scheme("trellis", 32), FP8]


@pytest.fixture(autouse=True, params=["narrow", "wide", "torch's"])
def kernels(request, monkeypatch):
    """What CPUs with narrow and wide registers use, and what does where nothing is compiled."""
    if request.param == "torch's":
        monkeypatch.setattr(chosen, "_compiler", lambda: None)
        monkeypatch.setattr(chosen, "_chosen", {})
        return
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(chosen, "_is_narrow", lambda: request.param == "narrow")


def product(x, scheme, *, shape=(192, 256), block=None):
    """(the kernel's, the reference in float64)."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(*shape, generator=generator).to(x.dtype)
    stored = device_layout.plan(scheme, shape)
    if block is not None:
        stored = StoredMatrix(scheme, shape, block)
    matrix = NearestRounding().matrix("w", weight, scheme)
    codes, scales = device_layout.tensors(matrix, stored, x.dtype)
    kernels = {
        "int8": lambda: products.int8_linear(x, codes, scales),
        "int4": lambda: products.int4_linear(x, codes, scales, stored.block),
        "trellis": lambda: products.trellis_linear(x, codes, scales),
        "fp8": lambda: products.fp8_linear(x, codes, scales),
    }
    return kernels[scheme.kind](), x.double() @ matrix.dequantize().double().t()


def some_x(rows, dtype=torch.bfloat16, columns=256):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)


def assert_near(actual, expected, dtype):
    relative = float((actual.double() - expected).norm() / expected.norm())
    assert relative < {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 1e-4}[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_product_is_that_of_the_dequantized_weight(rows, scheme, dtype) -> None:
    assert_near(*product(some_x(rows, dtype), scheme), dtype)


@pytest.mark.parametrize("lacks_kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_product_of_many_rows_needs_no_kernels_of_oneDNN(
    scheme, dtype, lacks_kernels, monkeypatch
) -> None:
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: lacks_kernels)

    assert_near(*product(some_x(70, dtype), scheme), dtype)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("outer", [(1, 1), (2, 3), (40, 1), ()], ids=str)
def test_product_has_the_shape_of_its_input(scheme, outer) -> None:
    x = some_x(max(1, torch.Size(outer).numel()))
    flat, _ = product(x, scheme)
    shaped, _ = product(x.view(*outer, 256), scheme)

    assert shaped.shape == (*outer, 192)
    assert torch.equal(shaped, flat.view(shaped.shape))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_product_of_no_rows_has_none(scheme) -> None:
    """As an expert's that no token chose."""
    actual, _ = product(some_x(0), scheme)

    assert actual.shape == (0, 192)


@pytest.mark.parametrize("kernels", ["narrow", "wide"], indirect=True)
@pytest.mark.parametrize(("scheme", "kind"), [(INT8, Int8Product), (INT4, Int4Product)], ids=str)
def test_product_in_16_bits_is_for_narrow_registers(request, monkeypatch, scheme, kind) -> None:
    asked = []
    real = kind.rows

    def noting(self, x, *weight):
        asked.append(x.shape[0])
        return real(self, x, *weight)

    monkeypatch.setattr(kind, "rows", noting)
    for rows in (1, 40):
        product(some_x(rows), scheme)

    assert asked == ([1, 40] if request.node.callspec.params["kernels"] == "narrow" else [])


@pytest.fixture
def taken(monkeypatch):
    """Which ways trellis_linear() goes, and of how many rows of x or of the weight."""
    ways = []

    def note(owner, name, way, size):
        real = getattr(owner, name)

        def noting(*given):
            ways.append((way, size(*given)))
            return real(*given)

        monkeypatch.setattr(owner, name, noting)

    note(TrellisProduct, "rows", "16 bits", lambda _self, x, *_: x.numel() // x.shape[-1])
    note(TrellisWeight, "dequantize", "weight", lambda *given: given[-1].shape[1])
    note(trellis_product, "linear", "torch", lambda x, *_: x.shape[0])
    return ways


FEW = products.TRELLIS_KERNEL_ROWS


@pytest.mark.parametrize(
    ("kernels", "many"), [("narrow", "16 bits"), ("wide", "weight")], indirect=["kernels"]
)
def test_trellis_product_of_many_rows_is_dequantized_for_wide_registers(taken, many) -> None:
    for rows in (1, FEW, FEW + 1):
        product(some_x(rows), TRELLIS)

    assert taken == [("16 bits", 1), ("16 bits", FEW), (many, FEW + 1 if many != "weight" else 192)]


@pytest.mark.parametrize("kernels", ["wide"], indirect=True)
def test_trellis_product_counts_rows_of_any_shape(taken) -> None:
    for outer in ((2, FEW // 2), (FEW // 2 + 1, 2)):
        product(some_x(outer[0] * outer[1]).view(*outer, 256), TRELLIS)

    assert taken == [("16 bits", FEW), ("weight", 192)]


@pytest.mark.parametrize("kernels", ["torch's"], indirect=True)
def test_trellis_product_without_kernels_is_plain_torchs(taken) -> None:
    for rows in (1, 40):
        product(some_x(rows), TRELLIS)

    assert taken == [("torch", 1), ("torch", 40)]


@pytest.mark.parametrize("kernels", ["narrow", "wide"], indirect=True)
def test_trellis_product_of_what_kernels_do_not_take_is_plain_torchs(taken) -> None:
    for rows in (1, 40):
        product(some_x(rows, torch.float32), TRELLIS)
        product(some_x(rows).requires_grad_(), TRELLIS)

    assert taken == [("torch", 1), ("torch", 1), ("torch", 40), ("torch", 40)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_product_in_chunks_is_the_same(scheme, monkeypatch) -> None:
    monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 256 * 64)
    monkeypatch.setattr(trellis_product, "_CHUNK_ELEMENTS", 256 * 64)

    assert_near(*product(some_x(40), scheme), torch.bfloat16)


@pytest.mark.parametrize("columns", [1, 17, 100, 144])
@pytest.mark.parametrize("rows", [1, 4])
def test_int8_product_of_any_columns_is_right(rows, columns) -> None:
    x = some_x(rows, columns=columns)

    assert_near(*product(x, INT8, shape=(7, columns)), torch.bfloat16)


@pytest.mark.parametrize("block", int4_layout.BLOCKS)
@pytest.mark.parametrize("rows", [1, 40])
def test_product_with_another_kernels_layout_is_the_same(block, rows) -> None:
    assert_near(*product(some_x(rows), INT4, block=block), torch.bfloat16)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 40])
def test_product_of_no_number_is_no_number(rows, scheme, bad) -> None:
    x = some_x(rows)
    x[0, 3] = bad
    actual, _ = product(x, scheme)

    assert not torch.isfinite(actual[0]).any()
    assert torch.isfinite(actual[1:]).all()


@pytest.mark.parametrize("columns", [40, 63, 96, 3072])
@pytest.mark.parametrize("scheme", [INT8, FP8], ids=str)
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_product_with_any_number_of_columns(rows, scheme, columns) -> None:
    assert_near(
        *product(some_x(rows, columns=columns), scheme, shape=(70, columns)), torch.bfloat16
    )


@pytest.mark.parametrize("scheme", [INT8, FP8], ids=str)
@pytest.mark.parametrize("rows", [1, 40])
def test_product_in_float16_does_not_pass_its_largest_number(rows, scheme) -> None:
    weight = torch.full((192, 256), 2.0, dtype=torch.float16)
    matrix = NearestRounding().matrix("w", weight, scheme)
    stored = device_layout.plan(scheme, (192, 256))
    codes, scales = device_layout.tensors(matrix, stored, torch.float16)
    x = torch.full((rows, 256), 4.0, dtype=torch.float16)  # 4 * 127 * 256 does
    linear = products.int8_linear if scheme is INT8 else products.fp8_linear
    expected = x.double() @ matrix.dequantize().double().t()

    assert float((linear(x, codes, scales).double() - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.parametrize("rows", [1, 40])
def test_int8_product_of_zeros_is_zero(rows) -> None:
    actual, _ = product(torch.zeros(rows, 256).bfloat16(), INT8)

    assert not actual.any()


@pytest.mark.parametrize("block", int4_layout.BLOCKS)
def test_int4_layout_is_undone(block) -> None:
    codes = torch.randint(0, 16, (128, 96)).to(torch.uint8)

    assert torch.equal(int4_layout.unpack(int4_layout.pack(codes, block), block), codes)


@pytest.mark.parametrize(
    ("kernels", "scheme"),
    [("wide", INT4), ("torch's", INT4), ("wide", TRELLIS)],
    indirect=["kernels"],
    ids=str,
)
def test_scratch_of_a_product_is_bounded(scheme, monkeypatch) -> None:
    asked: list[int] = []
    bound = (256 + 2) * 64  # two groups: a row of zero points for each
    real = products.scratch

    def noting(shape, dtype):
        buffer = real(shape, dtype)
        asked.append(buffer.numel())
        return buffer

    monkeypatch.setattr(products, "scratch", noting)
    monkeypatch.setattr(products, "_CHUNK_ELEMENTS", bound)
    product(some_x(40), scheme, shape=(1024, 256))

    assert len(asked) > 1
    assert max(asked) <= bound
