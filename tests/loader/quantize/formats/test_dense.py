from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.quantized_layers import LAYER, WEIGHT, golden, quantized_source

from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.layout import PAD_PREFIX
from pilotlight_loader.quantize.formats.dense import write_dense


@pytest.mark.parametrize("name", ["gptq-4-128", "bnb-nf4-nested", "ct-fp8-block"])
def test_write_dense_gives_a_plain_checkpoint(name, tmp_path):
    tensors, config, expected = golden(name)
    tensors[f"{LAYER}.bias"] = torch.ones(64)
    source = quantized_source(tmp_path, tensors, config)

    write_dense(source, tmp_path / "dense.safetensors", expected.dtype)

    written = load_file(tmp_path / "dense.safetensors")
    pads = {name for name in written if name.startswith(PAD_PREFIX)}
    assert written.keys() - pads == {WEIGHT, f"{LAYER}.bias", "model.norm.weight"}
    assert torch.equal(written[WEIGHT], expected)
    assert torch.equal(written[f"{LAYER}.bias"], torch.ones(64))


def test_write_dense_names_a_weight_that_its_dtype_cannot_hold(tmp_path):
    tensors, config, _ = golden("ct-int4-group")
    tensors[f"{LAYER}.weight_scale"] *= 1e7
    source = quantized_source(tmp_path, tensors, config)

    with pytest.raises(QuantizedFormatError, match=f"{WEIGHT}.*float16 cannot hold"):
        write_dense(source, tmp_path / "dense.safetensors", torch.float16)

    assert not (tmp_path / "dense.safetensors").exists()
    write_dense(source, tmp_path / "dense.safetensors", torch.bfloat16)
