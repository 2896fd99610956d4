"""What a GPU multiplies with, by the operators that a CPU has, too; the rest where there is one."""

import pytest
import torch
from torch import nn

from pilotlight_loader import BakedCheckpoint, SimulatedDevice, bake, load, open_checkpoint
from pilotlight_loader.quantize import cuda_products, device_layout, int4_layout, tile_layout
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.layers import QuantizedLinear, accept_quantized
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.stored import StoredMatrix

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SCHEMES = [INT8, INT4, Scheme("int4", 32), FP8]
DTYPES = [torch.bfloat16, torch.float32, torch.float16]
SHAPE = (192, 256)
MOST_ERROR = {torch.bfloat16: 6e-3, torch.float32: 1e-6, torch.float16: 2e-3}


def some_x(rows, dtype=torch.bfloat16):
    return torch.randn(rows, SHAPE[1], generator=torch.Generator().manual_seed(rows)).to(dtype)


def stored_in(scheme, dtype, block=None):
    """(StoredMatrix, codes, scales, the weight that they stand for in float32)."""
    weight = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
    stored = device_layout.plan(scheme, SHAPE, "cuda")
    if block is not None:
        stored = StoredMatrix(scheme, SHAPE, block)
    matrix = NearestRounding().matrix("w", weight, scheme)
    return stored, *device_layout.tensors(matrix, stored, dtype), matrix.dequantize()


def product(x, stored, codes, scales):
    if stored.scheme.kind == "int4":
        return cuda_products.int4_linear(x, codes, scales, stored.block)
    return cuda_products.byte_linear(x, codes, scales)


def error(actual, expected):
    return float((actual.double().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 65])
def test_cuda_product_is_that_of_the_dequantized_weight(rows, scheme, dtype, device) -> None:
    x = some_x(rows, dtype)
    stored, codes, scales, weight = stored_in(scheme, dtype)
    actual = product(x.to(device), stored, codes.to(device), scales.to(device))

    assert error(actual, x.double() @ weight.double().t()) < MOST_ERROR[dtype]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_cuda_product_in_chunks_has_the_same_bits(scheme, monkeypatch) -> None:
    stored, codes, scales, _ = stored_in(scheme, torch.float32)
    x = torch.eye(SHAPE[1])  # no sum that could be taken in another order
    whole = product(x, stored, codes, scales)
    monkeypatch.setattr(cuda_products, "_CHUNK_ELEMENTS", 64 * SHAPE[1])

    assert torch.equal(product(x, stored, codes, scales), whole)


@pytest.mark.parametrize("block", [*int4_layout.BLOCKS, tile_layout.BLOCK])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_weight_of_any_layout_is_rounded_once(block, dtype) -> None:
    stored, codes, scales, weight = stored_in(INT4, dtype, block)
    actual = cuda_products.dequantized(codes, scales, stored.block, dtype)

    if dtype is torch.float32:  # which may be multiplied and added in one step
        assert torch.allclose(actual, weight, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(actual, weight.to(dtype))


def test_cuda_product_in_float16_does_not_pass_its_largest_number() -> None:
    weight = torch.full(SHAPE, 2.0, dtype=torch.float16)
    stored = device_layout.plan(INT8, SHAPE)
    codes, scales = device_layout.tensors(
        NearestRounding().matrix("w", weight, INT8), stored, torch.float16
    )
    x = torch.full((2, SHAPE[1]), 4.0, dtype=torch.float16)  # 4 * 127 * 256 does

    assert error(product(x, stored, codes, scales), x.double() @ weight.double().t()) < 2e-3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_cuda_product_of_no_number_is_no_number(scheme, bad) -> None:
    x = some_x(3)
    x[0, 3] = bad
    stored, codes, scales, _ = stored_in(scheme, torch.bfloat16)
    actual = product(x, stored, codes, scales)

    assert not torch.isfinite(actual[0]).any()
    assert torch.isfinite(actual[1:]).all()


def test_cuda_layout_with_zero_rows_of_input() -> None:
    stored, codes, scales, _ = stored_in(INT4, torch.bfloat16)

    assert product(some_x(1)[:0], stored, codes, scales).shape == (0, SHAPE[0])


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = [nn.Embedding(512, 128), nn.Linear(128, 256), nn.Linear(256, 64, bias=False)]
    return nn.Sequential(*layers).to(torch.bfloat16).requires_grad_(False)


SCHEMES_OF_NET = {"0.weight": INT8, "1.weight": INT4, "2.weight": FP8}


@pytest.fixture
def baked(net, tmp_path) -> BakedCheckpoint:
    plain = bake(net, tmp_path / "plain.safetensors", order=[], metadata={})
    path = tmp_path / "cuda.safetensors"
    return quantize_baked(plain, path, SCHEMES_OF_NET, NearestRounding(), device="cuda")


def loaded(net, baked, device):
    module = net.to("meta")
    accept_quantized(module, baked.quantized, dict.fromkeys(baked.quantized, torch.bfloat16))
    load(open_checkpoint(baked.path), module, device)
    return module


def test_cuda_layout_is_what_the_file_says(baked) -> None:
    blocks = {name: stored.block for name, stored in baked.quantized.items()}

    assert blocks == {"0.weight": 0, "1.weight": tile_layout.BLOCK, "2.weight": 0}


def test_cuda_layout_loaded_to_a_device_answers_as_its_codes_say(net, baked) -> None:
    ids = torch.arange(40).view(2, 20)
    device = SimulatedDevice()
    device.run()
    with baked.map() as mapped:
        tensors = mapped.tensors()
        dense = {
            name: device_layout.matrix(
                stored, tensors[f"{name}_codes"], tensors[f"{name}_scales"]
            ).dequantize()
            for name, stored in baked.quantized.items()
        }
    bias = net[1].bias.float()
    hidden = nn.functional.linear(dense["0.weight"][ids], dense["1.weight"], bias)
    expected = hidden @ dense["2.weight"].t()
    module = loaded(net, baked, device)

    assert type(module[1]) is QuantizedLinear
    assert error(module(ids), expected.double()) < 2e-2


def test_cuda_layout_attached_by_a_cpu_multiplies_by_dequantizing(net, baked, monkeypatch) -> None:
    module = loaded(net, baked, "cpu")
    plain = module(torch.arange(7)[None])
    monkeypatch.setattr(tile_layout, "linear", None)  # would be called, and fail

    assert torch.equal(module(torch.arange(7)[None]), plain)


def test_gpu_takes_the_kernel_for_few_rows_only(monkeypatch) -> None:
    """By a tensor that says it is on a GPU: which product is chosen."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    taken = []
    monkeypatch.setattr(tile_layout, "has_kernel", lambda *asked: taken.append(asked) or True)
    monkeypatch.setattr(tile_layout, "linear", lambda x, *_: x.new_zeros(len(x), SHAPE[0]))
    stored, codes, scales, _ = stored_in(INT4, torch.bfloat16)
    for rows in (1, cuda_products.INT4_KERNEL_ROWS, cuda_products.INT4_KERNEL_ROWS + 1):
        product(some_x(rows).as_subclass(OnGpu), stored, codes, scales)

    assert [asked[1:] for asked in taken] == [(SHAPE, 128)] * 2
