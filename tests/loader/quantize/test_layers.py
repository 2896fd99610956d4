"""Quantized layers in a module's place."""

import pytest
import torch
from torch import nn

from pilotlight_loader import wide_product
from pilotlight_loader.kernels import chosen
from pilotlight_loader.quantize import device_layout, products
from pilotlight_loader.quantize.layers import accept_quantized
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS
from pilotlight_loader.quantize.nearest import NearestRounding

SCHEMES = [INT8, INT4, TRELLIS, FP8]
SHAPE = (64, 128)


@pytest.fixture
def layer():
    """Makes one with its weight, and what the weight is in float64."""

    def make(scheme):
        plain = nn.Linear(SHAPE[1], SHAPE[0], bias=False, dtype=torch.bfloat16)
        stored = device_layout.plan(scheme, SHAPE)
        module = nn.Sequential(plain)
        accept_quantized(module, {"0.weight": stored}, {"0.weight": torch.bfloat16})
        matrix = NearestRounding().matrix("w", torch.randn(SHAPE).bfloat16(), scheme)
        codes, scales = device_layout.tensors(matrix, stored, torch.bfloat16)
        module[0].weight_codes, module[0].weight_scales = codes, scales
        return module[0], matrix.dequantize().double()

    return make


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_layer_takes_the_last_of_several_rows(layer, scheme) -> None:
    """Of a batch they lie apart, and are a view for reshape()."""
    quantized, weight = layer(scheme)
    hidden = torch.randn(3, 5, 128).bfloat16()
    with torch.inference_mode():
        product = quantized(hidden[:, -1:, :])

    expected = hidden[:, -1:, :].double() @ weight.t()
    assert float((product.double() - expected).norm()) < 6e-3 * float(expected.norm())


@pytest.mark.parametrize("columns", [64, 256])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_layer_refuses_other_columns(layer, scheme, columns) -> None:
    """A kernel would read what is not there."""
    quantized, _ = layer(scheme)

    with pytest.raises(ValueError, match="columns, not 128"):
        quantized(torch.ones(2, columns).bfloat16())


@pytest.mark.parametrize(("scheme", "asked"), [(INT8, []), (TRELLIS, []), (FP8, ["bf16"])], ids=str)
def test_layers_are_accepted_with_what_their_products_compile(
    layer, monkeypatch, scheme, asked
) -> None:
    """Many rows of fp8 are multiplied as bf16."""
    prepared: list[str] = []
    monkeypatch.setattr(chosen, "prepare", lambda kind, _block: prepared.append(kind))
    monkeypatch.setattr(wide_product, "prepare", lambda: prepared.append("bf16"))
    layer(scheme)

    assert prepared == [scheme.kind, *asked]


def test_layer_of_a_trellis_on_a_gpu_is_plain_torchs(layer, monkeypatch) -> None:
    """By a tensor that says it is on one: kernels of a CPU must not see its addresses."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    quantized, weight = layer(TRELLIS)
    monkeypatch.setattr(products, "trellis_linear", None)
    x = torch.randn(2, 3, 128).bfloat16()
    with torch.inference_mode():
        product = quantized(x.as_subclass(OnGpu)).as_subclass(torch.Tensor)

    expected = x.double() @ weight.t()
    assert product.shape == (2, 3, 64)
    assert float((product.double() - expected).norm()) < 6e-3 * float(expected.norm())


@pytest.mark.parametrize("scheme", [INT4, TRELLIS], ids=str)
def test_embedding_of_4_bits_is_refused(scheme) -> None:
    module = nn.Sequential(nn.Embedding(*SHAPE))
    stored = device_layout.plan(scheme, SHAPE)

    with pytest.raises(ValueError, match="an embedding of 4 bits cannot be looked up"):
        accept_quantized(module, {"0.weight": stored}, {"0.weight": torch.bfloat16})
