"""Codes of others, stored in our layout, and read back from a baked file."""

from __future__ import annotations

import pytest
import torch
from support.quantized_layers import WEIGHT, golden, quantized_source
from torch import nn

from pilotlight_loader import bake
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.formats.source_codes import SourceCodes, kept_schemes
from pilotlight_loader.quantize.matrix import Scheme
from pilotlight_loader.quantize.nearest import NearestRounding

# Scales of bfloat16 are exact in bfloat16; those of others are rounded to it once.
KEPT = {
    "gptq-4-128": (Scheme("int4", 128), 2**-8),
    "gptq-4-32": (Scheme("int4", 32), 2**-8),
    "gptq-4-row": (Scheme("int4", 256), 2**-8),
    "awq-4-64": (Scheme("int4", 64), 2**-8),
    "ct-int4-group": (Scheme("int4", 64), 0),
    "ct-int4-group-zeros": (Scheme("int4", 64), 2**-8),
    "ct-int8-row": (Scheme("int8"), 0),
    "ct-fp8-row": (Scheme("fp8"), 0),
    "ct-fp8-tensor": (Scheme("fp8"), 0),
    "bnb-int8": (Scheme("int8"), 2**-8),
}
NOT_KEPT = ["gptq-4-act", "gptq-8-128", "ct-int8-row-zeros", "ct-fp8-block", "bnb-nf4"]


class Layer(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.up_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.up_proj.weight = nn.Parameter(weight, requires_grad=False)


@pytest.mark.parametrize("name", KEPT)
def test_source_codes_reach_the_baked_file(name, tmp_path):
    tensors, config, _ = golden(name)
    tensors = {key.replace("model.layers.0.mlp.", ""): part for key, part in tensors.items()}
    config = config | {"ignore": []}
    source = quantized_source(tmp_path, tensors, config)
    plain = Layer(source.dense("up_proj.weight").bfloat16())
    baked = bake(plain, tmp_path / "plain.safetensors", order=[], metadata={})
    schemes = kept_schemes(source, ["up_proj.weight"])
    assert schemes == {"up_proj.weight": KEPT[name][0]}
    rounding = SourceCodes(source, schemes, NearestRounding())

    quantized = quantize_baked(baked, tmp_path / "quantized.safetensors", schemes, rounding)

    stored = quantized.quantized["up_proj.weight"]
    with quantized.map() as mapped:
        parts = mapped.tensors()
        codes, scales = parts["up_proj.weight_codes"], parts["up_proj.weight_scales"]
        read = device_layout.matrix(stored, codes.clone(), scales.clone())
    theirs = source.matrix("up_proj.weight")
    assert torch.equal(read.codes.view(torch.uint8), theirs.codes.view(torch.uint8))
    off = (read.dequantize() - theirs.dequantize()).abs().max()
    assert off <= KEPT[name][1] * theirs.dequantize().abs().max()


@pytest.mark.parametrize("name", NOT_KEPT)
def test_kept_schemes_leave_out_what_no_layer_multiplies_with(name, tmp_path):
    tensors, config, _ = golden(name)

    assert not kept_schemes(quantized_source(tmp_path, tensors, config), [WEIGHT])


def test_source_codes_leave_other_weights_to_the_other_rounding(tmp_path):
    tensors, config, expected = golden("ct-int8-row")
    source = quantized_source(tmp_path, tensors, config)
    weight = expected.bfloat16()

    made = SourceCodes(source, [], NearestRounding()).matrix(WEIGHT, weight, Scheme("int8"))

    nearest = NearestRounding().matrix(WEIGHT, weight, Scheme("int8"))
    assert torch.equal(made.codes, nearest.codes)
