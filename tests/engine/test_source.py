"""What cannot be served is refused at the deploy, by file and reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from pilotlight_loader import rotary, wide_product
from pilotlight_loader.square_norm import SquareNorm
from pilotlight_platform.engine import side_files
from pilotlight_platform.engine import source as source_module
from pilotlight_platform.engine import verify as verify_module
from pilotlight_platform.engine.checked_source import check_source
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import SourceError, VerificationError


@pytest.fixture
def source(sources, tmp_path):
    return Path(shutil.copytree(sources("llama"), tmp_path / "source"))


@pytest.fixture
def bake(source, tmp_path):
    reports = []

    def bake(**options):
        (tmp_path / "baked").mkdir(exist_ok=True)
        options = {"dtype": "auto", "report": lambda *report: reports.append(report), **options}
        return bake_source(source, tmp_path / "baked", **options)

    bake.reports = reports
    return bake


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_bake_reports_each_phase_to_its_end(bake, source):
    baked = bake()

    phases = list(dict.fromkeys(phase for phase, *_ in bake.reports))
    assert phases == ["check", "load", "bake", "verify"]
    for phase in phases:
        _, _, done, total = [report for report in bake.reports if report[0] == phase][-1]
        assert done == total > 0
    assert baked.dtype == "float32"
    assert baked.architecture == "LlamaForCausalLM"
    assert baked.context_length == 128
    # keys and values, of layers, heads, their width, in four bytes
    config = json.loads((source / "config.json").read_text())
    width = config["num_key_value_heads"] * config["head_dim"]
    assert baked.cache_nbytes == 128 * 2 * config["num_hidden_layers"] * width * 4


def test_digest_is_that_of_the_source(bake, source):
    def digest_of():
        return check_source(source, lambda *_: None).digest(lambda *_: None)

    digest = digest_of()

    assert bake().source_digest == digest
    assert bake(digest="known").source_digest == "known"
    edit(source / "config.json", rms_norm_eps=1e-4)
    assert digest_of() != digest


def test_another_dtype_is_baked_and_attached(bake, tmp_path):
    assert bake(dtype="bfloat16").dtype == "bfloat16"

    skeleton = Skeleton.load(tmp_path / "baked")
    assert skeleton.module.lm_head.weight.dtype == torch.bfloat16
    assert skeleton.config.dtype == torch.bfloat16


def test_tied_weights_are_counted_once(sources, tmp_path):
    baked = bake_source(sources("qwen2"), tmp_path, dtype="auto", report=lambda *_: None)

    with torch.device("meta"):
        expected = sum(p.numel() for p in Skeleton.load(tmp_path).module.parameters())
    assert baked.parameters == expected
    assert baked.nbytes < expected * 4 * 1.2


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such directory"):
        bake_source(tmp_path / "x", tmp_path, dtype="auto", report=lambda *_: None)


def test_pickle_is_refused(bake, source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")

    with pytest.raises(SourceError, match="pickle"):
        bake()


def test_truncated_file_is_refused(bake, source):
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(SourceError, match=r"model\.safetensors"):
        bake()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_own_code_is_refused(bake, source, file):
    edit(source / file, auto_map={"AutoModelForCausalLM": "modeling.Model"})

    with pytest.raises(SourceError, match=rf"{file}.*own code"):
        bake()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "unheard_of"}, "'unheard_of' is not known"),
        ({"model_type": ...}, "None is not known"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"quantization_config": {"bits": 4}}, "quantized by None; supported: gptq"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
    ],
)
def test_config_that_cannot_be_served_is_refused(bake, source, changes, reason):
    edit(source / "config.json", **changes)

    with pytest.raises(SourceError, match=reason):
        bake()


@pytest.mark.parametrize(("content", "reason"), [("{", "cannot be read"), ("[]", "not a JSON")])
def test_broken_config_is_refused(bake, source, content, reason):
    (source / "config.json").write_text(content)

    with pytest.raises(SourceError, match=reason):
        bake()


def test_missing_config_is_refused(bake, source):
    (source / "config.json").unlink()

    with pytest.raises(SourceError, match=r"config\.json: no such file"):
        bake()


def test_missing_weight_is_refused(bake, source):
    """transformers would make it up at random."""
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(SourceError, match=r"missing keys, such as model\.layers\.1\.mlp\.up_proj"):
        bake()


def test_weight_of_another_shape_is_refused(bake, source):
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:10].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(SourceError, match=r"mismatched keys, such as .*lm_head"):
        bake()


def test_unused_weights_are_reported(bake, source):
    tensors = load_file(source / "model.safetensors")
    tensors["model.extra.weight"] = torch.zeros(3)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    bake()

    assert any("model.extra.weight" in message for _, message, *_ in bake.reports)


def edit_config(source, **values):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | values))


def test_more_layers_than_tensors_are_refused(bake, source):
    """Before modules are built for them, which would take hours."""
    edit_config(source, num_hidden_layers=10_000_000)

    with pytest.raises(SourceError, match="10000000 layers, but the checkpoint has"):
        bake()


def test_fewer_layers_than_the_checkpoint_has_are_refused(bake, source):
    """transformers would leave the last layers out, and the model would answer."""
    edit_config(source, num_hidden_layers=2)

    with pytest.raises(SourceError, match=r"such as model\.layers\.2\..*too small"):
        bake()


def test_broken_tokenizer_is_refused(bake, source):
    (source / "tokenizer.json").write_text("{}")

    with pytest.raises(SourceError, match="tokenizer"):
        bake()


def test_unknown_dtype_is_refused(bake):
    with pytest.raises(SourceError, match="float64"):
        bake(dtype="float64")


def test_checkpoint_that_answers_differently_is_refused(bake, monkeypatch):
    def bake_another(model, destination, *args):
        with torch.no_grad():
            weight = model.model.layers[2].mlp.down_proj.weight
            kept = weight.clone()
            weight.neg_()
            baked = real(model, destination, *args)
            weight.copy_(kept)
        return baked

    real = source_module._bake
    monkeypatch.setattr(source_module, "_bake", bake_another)

    with pytest.raises(VerificationError, match="logits differ"):
        bake()


def test_worker_and_source_have_the_same_norms_and_rotary(bake, monkeypatch):
    """What is compiled for the one is for the other."""
    pytest.importorskip("llvmlite")
    kinds = []

    def compare(source, module, prompt, tolerance):
        for model in (source, module):
            layers = [layer for layer in model.modules() if not isinstance(layer, nn.Linear)]
            kinds.append([type(layer) for layer in layers])
        real(source, module, prompt, tolerance)

    real = verify_module._compare_logits
    monkeypatch.setattr(verify_module, "_compare_logits", compare)
    bake(dtype="bfloat16")

    assert kinds[0] == kinds[1]
    assert SquareNorm in kinds[0]
    assert any(kind.__module__ == rotary.__name__ for kind in kinds[0])


def test_worker_and_source_multiply_alike_where_a_cpu_has_no_bf16_kernels(bake, monkeypatch):
    """Else rounding alone could refuse a right model of many layers."""
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: True)
    prepared = []
    monkeypatch.setattr(wide_product, "prepare", lambda: prepared.append(True))
    differences, kinds = [], []

    def compare(source, module, prompt, tolerance):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            differences.append((source(input_ids=ids).logits - module(input_ids=ids).logits).any())
        kinds.append({type(layer) for layer in module.modules() if isinstance(layer, nn.Linear)})
        real(source, module, prompt, tolerance)

    real = verify_module._compare_logits
    monkeypatch.setattr(verify_module, "_compare_logits", compare)
    bake(dtype="bfloat16")

    assert not differences[0]
    assert kinds[0] == {wide_product.WideLinear}
    assert prepared


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_equal_choices_are_the_same_answer_only_in_few_bits(bake, source, monkeypatch, dtype):
    """A worker sums up in another order; of two tokens that are as good it may take the other."""
    tensors = load_file(source / "model.safetensors")
    half = tensors["lm_head.weight"].shape[0] // 2
    tensors["lm_head.weight"][half:] = tensors["lm_head.weight"][:half]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    def take_the_twin(replica, prompt):
        answer = real(replica, prompt)
        return [*answer[:-1], (answer[-1] + half) % (2 * half)]

    real = verify_module._engine_answer
    monkeypatch.setattr(verify_module, "_engine_answer", take_the_twin)

    if dtype == "bfloat16":
        bake(dtype=dtype)
    else:
        with pytest.raises(VerificationError, match="where the source answers"):
            bake(dtype=dtype)


def test_weights_that_are_no_numbers_are_refused(bake, source):
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(VerificationError, match="NaN"):
        bake()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "longer",
        ),
        ("{% for %}", "refused"),
    ],
)
def test_chat_template_that_cannot_be_used_is_refused(bake, source, monkeypatch, template, reason):
    monkeypatch.setattr(side_files, "_TEMPLATE_TIMEOUT_S", 0.2)
    (source / "chat_template.jinja").write_text(template)

    with pytest.raises(SourceError, match=reason):
        bake()


def test_model_without_keys_and_values_is_refused(tmp_path):
    config = MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=64, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    (tmp_path / "baked").mkdir()

    with pytest.raises(SourceError, match="MambaForCausalLM keeps a state"):
        bake_source(tmp_path / "mamba", tmp_path / "baked", dtype="auto", report=lambda *_: None)
