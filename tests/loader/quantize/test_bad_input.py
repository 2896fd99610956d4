"""Any weight is stored so that its product is right, or refused by name; never silently wrong."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pilotlight_loader import AttachPlan, BakedCheckpoint, bake
from pilotlight_loader.errors import QuantizationError
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.layers import accept_quantized
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.rule import plan_schemes
from pilotlight_loader.quantize.stored import HALVES

SCHEMES = [
    *(INT8, FP8, INT4, Scheme("int4", 64), Scheme("int4", 32)),
    *(TRELLIS, Scheme("trellis", 64), Scheme("trellis", 32)),
]
ROWS_OF_A_BLOCK = {"cpu": 64, "cuda": 8}  # that every kernel takes; a trellis' 32
# What is done to a Gaussian weight, and whether that can be stored; None: it may be refused.
SPOILS = {
    "nothing": (lambda w: w, True),
    "zero row": (lambda w: w[0].zero_(), True),
    "zero column": (lambda w: w[:, 0].zero_(), True),
    "zeros": (lambda w: w.zero_(), True),
    "tiny": (lambda w: w.mul_(1e-30), True),
    "huge": (lambda w: w.mul_(1e15), True),
    "as large as bf16 has it": (lambda w: w.mul_(1e37), None),  # its square is infinite
    "one outlier": (lambda w: w[0, :1].fill_(3e4), True),
    "nan": (lambda w: w[-1, -1:].fill_(torch.nan), False),
    "infinite": (lambda w: w[-1, :1].fill_(-torch.inf), False),
}
NUMBER = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


def quantize(weight, scheme, device, folder) -> BakedCheckpoint:
    layer = nn.Linear(1, 1, bias=False)  # torch warns where a size is 0
    layer.weight = nn.Parameter(weight, requires_grad=False)
    module = nn.Sequential(layer)
    path = folder / f"{next(NUMBER)}.safetensors"
    plain = bake(module, path, order=[], metadata={})
    made = path.with_suffix(".quantized")
    return quantize_baked(plain, made, {"0.weight": scheme}, NearestRounding(), device=device)


def attempt(*given) -> tuple[BakedCheckpoint | None, str]:
    try:
        return quantize(*given), ""
    except QuantizationError as error:
        return None, str(error)


def product(baked, x):
    (stored,) = baked.quantized.values()
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(stored.shape[1], stored.shape[0], bias=False))
    accept_quantized(module, baked.quantized, {"0.weight": x.dtype})
    plan = AttachPlan.compile(module, baked)
    with torch.inference_mode(), baked.map() as mapped:
        plan.attach(mapped)
        try:
            return module(x)
        finally:
            plan.detach()


@settings(deadline=None, max_examples=150)
@given(
    rows=st.one_of(st.integers(1, 96), st.sampled_from([32, 64, 128])),
    columns=st.one_of(st.integers(1, 200), st.sampled_from([32, 64, 128, 256])),
    scheme=st.sampled_from(SCHEMES),
    device=st.sampled_from(["cpu", "cuda"]),
    spoil=st.sampled_from(sorted(SPOILS)),
    count=st.sampled_from([1, 5, 40]),
)
def test_any_weight_multiplies_as_it_should_or_is_refused_by_name(
    folder, rows, columns, scheme, device, spoil, count
) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(rows, columns, generator=generator).bfloat16()
    change, is_number = SPOILS[spoil]
    change(weight)
    x = torch.randn(count, columns, generator=generator).bfloat16()
    fits = scheme.kind not in HALVES or (columns % scheme.group == 0 and rows % 8 == 0)
    in_blocks = scheme.kind != "int4" or rows % ROWS_OF_A_BLOCK[device] == 0
    if scheme.kind == "trellis":
        fits = in_blocks = fits and rows % 32 == 0
    baked, refused = attempt(weight, scheme, device, folder)
    if baked is None:
        assert "'0.weight' cannot be quantized" in refused
        assert not (fits and in_blocks and is_number)
        assert not list(folder.glob("*.quantized*"))
        return
    actual = product(baked, x)
    baked.path.unlink()
    expected = x.double() @ weight.double().t()
    off = float((actual.double() - expected).norm())

    assert fits
    assert is_number is not False
    assert bool(torch.isfinite(actual).all()) or is_number is None  # sums may pass bf16's range
    # A tenth is usual of 4 bits; a bake allows a half.
    assert is_number is None or off <= 0.25 * float(x.double().norm() * weight.double().norm())
    assert not actual[:, ~weight.any(1)].any()  # a channel of zeros stays one


@pytest.mark.parametrize("shape", [(0, 128), (64, 0)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_weight_of_no_size_is_refused_by_name(shape, scheme, folder) -> None:
    with pytest.raises(QuantizationError, match=r"'0\.weight' cannot be quantized: its shape is"):
        quantize(torch.empty(shape).bfloat16(), scheme, "cpu", folder)


def test_weight_of_no_size_is_left_out_by_the_rule() -> None:
    with torch.device("meta"):
        module = nn.ModuleDict({"up": nn.Linear(1, 1), "down": nn.Linear(1, 1)})

    assert plan_schemes(module, "int4", {"up.weight": (64, 0), "down.weight": (0, 128)}) == {}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_keeps_zero_channels_and_inputs_that_are_never_there(scheme) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 128, generator=generator).bfloat16()
    weight[3] = 0
    x = torch.randn(512, 128, generator=generator)
    x[:, :64] = 0  # half of the inputs, and with groups of 64 or 32 whole groups
    restored = gptq(weight, inverse_root(x.t() @ x), scheme).dequantize()

    assert not restored[3].any()
    assert bool(torch.isfinite(restored).all())
    assert float((restored - weight.float()).norm() / weight.float().norm()) < 0.3
