"""A Llama that GPTQ left in int4: its codes are served as they are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.gptq_weights import GptqWeight, gptq_weight
from transformers import AutoModelForCausalLM

from pilotlight_loader import BakedCheckpoint
from pilotlight_loader.quantize import device_layout
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source

GROUP = 32
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 4}
CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}


@pytest.fixture(scope="module")
def plain(make_source, tmp_path_factory):
    """The model with the weights that the codes stand for."""
    return make_source("llama", tmp_path_factory.mktemp("gptq") / "plain", **WIDE)


@pytest.fixture(scope="module")
def weights(plain) -> dict[str, GptqWeight]:
    """Of each projection; *plain* gets what they mean."""
    path = plain / "model.safetensors"
    tensors = load_file(path)
    made = {n: gptq_weight(w, GROUP) for n, w in tensors.items() if n.endswith("_proj.weight")}
    save_file(tensors | {n: w.meant for n, w in made.items()}, path, {"format": "pt"})
    return made


@pytest.fixture(scope="module")
def source(plain, weights):
    directory = Path(shutil.copytree(plain, plain.parent / "source"))
    tensors = load_file(plain / "model.safetensors")
    for name, weight in weights.items():
        del tensors[name]
        layer = name.removesuffix("weight")
        tensors |= {layer + key: tensor for key, tensor in weight.tensors.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": CONFIG}))
    return directory


@pytest.fixture
def bake(source, tmp_path):
    def bake(**options):
        options = {"dtype": "auto", "report": lambda *_: None, **options}
        return bake_source(source, tmp_path, **options)

    return bake


@pytest.mark.parametrize(("device", "blocks"), [("cpu", {32, 64}), ("cuda", {8})])
def test_gptq_codes_are_kept_to_the_bit(bake, weights, tmp_path, device, blocks):
    baked = bake(device=device)

    stored = BakedCheckpoint.open(tmp_path / "model.safetensors")
    assert baked.quantization == "int4 (gptq)"
    assert stored.quantized.keys() == weights.keys()
    assert {matrix.block for matrix in stored.quantized.values()} <= blocks
    with stored.map() as mapped:
        tensors = mapped.tensors()
        for name, weight in weights.items():
            matrix = device_layout.matrix(
                stored.quantized[name], tensors[name + "_codes"], tensors[name + "_scales"]
            )
            assert torch.equal(matrix.codes, weight.codes)
            torch.testing.assert_close(matrix.dequantize(), weight.meant, rtol=1e-5, atol=1e-5)


def test_gptq_greedy_answer_is_that_of_the_dequantized_model(bake, plain, weights, tmp_path):
    bake()
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    prompt = torch.tensor([[5, 9, 21, 3, 70, 44]])
    expected = model.generate(prompt, max_new_tokens=16, do_sample=False, eos_token_id=None)
    skeleton = Skeleton.load(tmp_path)
    replica = Replica.attach(skeleton)
    try:
        with torch.inference_mode():
            logits = skeleton.module(input_ids=expected).logits
            theirs = model(input_ids=expected).logits
    finally:
        replica.detach()

    answered = logits[0, prompt.shape[1] - 1 : -1].argmax(-1)
    assert answered.tolist() == expected[0, prompt.shape[1] :].tolist()
    error = (logits - theirs).norm() / theirs.norm()
    assert error < 0.01  # of the kernel, which multiplies in bf16


def test_gptq_in_its_own_bits_keeps_its_codes_and_rounds_the_rest(bake, weights, tmp_path):
    baked = bake(quantizing=Quantizing("int4"))

    stored = BakedCheckpoint.open(tmp_path / "model.safetensors")
    assert baked.quantization == "int4 (gptq)"
    assert stored.quantized["lm_head.weight"].scheme.kind == "int8"
    assert all(stored.quantized[name].scheme.group == GROUP for name in weights)


def test_gptq_in_other_bits_is_no_longer_called_gptq(bake):
    assert bake(quantizing=Quantizing("fp8")).quantization == "fp8"
