"""A bf16 model is served from packed weights where the CPU has the kernel, with the same bits."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig

from pilotlight_loader import kernel_layout
from pilotlight_loader.packed_linear import PackedLinear
from pilotlight_platform.engine import packing
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.packing import packable_weights, packed_path
from pilotlight_platform.engine.rehearsal import rehearse
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.engine.weight_readers import directly_read

needs_kernel = pytest.mark.skipif(
    kernel_layout.kernel_id() is None, reason="this CPU or torch packs nothing"
)
LINEAR = ["llama", "qwen2", "qwen3", "mpt", "mistral"]  # gpt2 has Conv1D
PROMPTS = [[5, 6, 7, 8, 9], list(range(20, 40)), [3]]
OTHERS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: MixtralConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=4,
        vocab_size=128,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "mamba": lambda: MambaConfig(
        hidden_size=64,
        state_size=8,
        num_hidden_layers=2,
        vocab_size=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    ),
}


@pytest.fixture(scope="session")
def bf16_baked(make_source, tmp_path_factory) -> Callable[[str], Path]:
    """The baked checkpoint of an architecture in bf16, wide enough for oneDNN to multiply one row.

    F.linear asks it from 4097 multiplications on: with fewer, plain weights may round otherwise.
    """
    root = tmp_path_factory.mktemp("bf16")

    def bake(name: str) -> Path:
        directory = root / name
        if not directory.exists():
            directory.mkdir()
            source = make_source(name, root / f"{name}-source", hidden_size=128)
            bake_source(source, directory, dtype="bfloat16", report=lambda *_: None)
        return directory

    return bake


@pytest.fixture
def bake(sources, tmp_path) -> Callable[..., tuple[Path, list[str]]]:
    """Bake afresh; the directory, and what was reported."""

    def bake(name: str = "llama", dtype: str = "bfloat16") -> tuple[Path, list[str]]:
        messages: list[str] = []
        directory = tmp_path / "baked"
        directory.mkdir()
        bake_source(
            sources(name), directory, dtype=dtype, report=lambda _, m, *__: messages.append(m)
        )
        return directory, messages

    return bake


def baked_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.safetensors"))


def packed_layers(skeleton: Skeleton) -> list[str]:
    return [n for n, m in skeleton.module.named_modules() if isinstance(m, PackedLinear)]


def logits(skeleton: Skeleton, ids: torch.Tensor) -> torch.Tensor:
    replica = Replica.attach(skeleton)
    try:
        with torch.inference_mode():
            return skeleton.module(input_ids=ids).logits.clone()
    finally:
        replica.detach()


def random_module(config: Any) -> Any:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


@needs_kernel
@pytest.mark.parametrize("name", LINEAR)
def test_packed_model_has_the_logits_of_the_plain_one(bf16_baked, name):
    directory = bf16_baked(name)
    packed, plain = Skeleton.load(directory), Skeleton.load(directory, packed=False)
    assert packed_layers(packed)
    assert not packed_layers(plain)

    for ids in (torch.tensor([PROMPTS[0]]), torch.tensor([PROMPTS[1], PROMPTS[1][::-1]])):
        assert torch.equal(logits(packed, ids), logits(plain, ids))


@needs_kernel
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "batched"])
@pytest.mark.parametrize("name", LINEAR)
def test_packed_model_answers_like_the_plain_one(bf16_baked, engine, submit, name, together):
    answers = []
    for packed in (True, False):
        replica = Replica.attach(Skeleton.load(bf16_baked(name), packed=packed))
        sampling = {"max_tokens": 6, "logprobs": 3, "ignore_eos": True}
        if together:
            running = [submit(replica, prompt, **sampling) for prompt in PROMPTS]
            answers.append([answer.finish().logprobs for answer in running])
        else:
            answers.append([submit(replica, p, **sampling).finish().logprobs for p in PROMPTS])
        engine.drop(replica)
        replica.detach()

    assert answers[0] == answers[1]


@needs_kernel
def test_packed_weights_are_those_of_untied_linear_layers(bf16_baked):
    packed = Skeleton.load(bf16_baked("qwen2"))

    assert packed.module.lm_head.weight is packed.module.model.embed_tokens.weight
    assert "lm_head.weight" not in packed.baked.packed
    assert "model.embed_tokens.weight" not in packed.baked.packed
    assert "model.layers.0.self_attn.q_proj.weight" in packed.baked.packed


@needs_kernel
def test_packed_lm_head_is_used_where_it_is_not_tied(bf16_baked):
    assert "lm_head.weight" in Skeleton.load(bf16_baked("llama")).baked.packed


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", "float32"), ("llama", "float16"), ("gpt2", "bfloat16")]
)
def test_nothing_is_packed_without_a_bf16_linear_layer(bake, name, dtype):
    directory, _ = bake(name, dtype)

    assert baked_files(directory) == ["model.safetensors"]


def test_machine_without_the_kernel_bakes_and_serves_plain_weights(bake, monkeypatch):
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: None)
    directory, _ = bake()
    skeleton = Skeleton.load(directory)

    assert baked_files(directory) == ["model.safetensors"]
    assert not packed_layers(skeleton)
    assert logits(skeleton, torch.tensor([PROMPTS[0]])).isfinite().all()


@needs_kernel
@pytest.mark.parametrize("kernel", [None, "onednn-other-0123"])
def test_worker_with_another_kernel_takes_the_plain_file(bf16_baked, monkeypatch, caplog, kernel):
    directory = bf16_baked("llama")
    expected = logits(Skeleton.load(directory), torch.tensor([PROMPTS[0]]))
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: kernel)
    with caplog.at_level(logging.WARNING):
        skeleton = Skeleton.load(directory)

    assert skeleton.baked.path.name == "model.safetensors"
    assert "packed_weights_unused" in caplog.text
    assert torch.equal(logits(skeleton, torch.tensor([PROMPTS[0]])), expected)


@needs_kernel
def test_file_of_another_kernel_under_our_name_is_refused(
    bf16_baked, tmp_path, monkeypatch, caplog
):
    directory = Path(shutil.copytree(bf16_baked("llama"), tmp_path / "copy"))
    theirs = packed_path(directory)
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: "onednn-other-0123")
    theirs.rename(packed_path(directory))
    with caplog.at_level(logging.WARNING):
        skeleton = Skeleton.load(directory)

    assert skeleton.baked.path.name == "model.safetensors"
    assert "packed_weights_refused" in caplog.text


@needs_kernel
def test_packed_file_of_another_model_is_refused(bf16_baked, tmp_path, caplog):
    directory = Path(shutil.copytree(bf16_baked("llama"), tmp_path / "copy"))
    shutil.copyfile(packed_path(bf16_baked("qwen3")), packed_path(directory))
    with caplog.at_level(logging.WARNING):
        skeleton = Skeleton.load(directory)

    assert skeleton.baked.path.name == "model.safetensors"
    assert "does not fit the model" in caplog.text


def fail(*_given):
    raise RuntimeError("no such kernel")


@needs_kernel
@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (lambda x, w, b: -functional.linear(x, torch.ones(w.shape).bfloat16(), b), "logits differ"),
        (fail, "no such kernel"),
    ],
    ids=["wrong", "raises"],
)
def test_packed_weights_that_answer_differently_are_dropped(bake, monkeypatch, faulty, reason):
    monkeypatch.setattr(kernel_layout, "linear", faulty)
    directory, messages = bake()

    assert baked_files(directory) == ["model.safetensors"]
    assert messages[-1].startswith(f"dropping the weights for this CPU's kernel: {reason}")


@needs_kernel
def test_disk_without_room_for_both_gets_the_plain_file(bake, monkeypatch):
    monkeypatch.setattr(packing, "_SPARE_BYTES", 1 << 60)
    directory, messages = bake()

    assert baked_files(directory) == ["model.safetensors"]
    assert any("no weights for this CPU's kernel: " in m and "disk is full" in m for m in messages)


@needs_kernel
def test_baked_bytes_are_those_of_the_larger_file(sources, tmp_path):
    baked = bake_source(sources("llama"), tmp_path, dtype="bfloat16", report=lambda *_: None)

    sizes = [(tmp_path / name).stat().st_size for name in baked_files(tmp_path)]
    assert len(sizes) == 2
    assert baked.nbytes == max(sizes)


@needs_kernel
def test_rehearsal_runs_packed_stand_ins(bf16_baked):
    skeleton = Skeleton.load(bf16_baked("llama"))
    seen = []
    skeleton.module.lm_head.register_forward_hook(
        lambda layer, *_: seen.append(kernel_layout.is_packed(layer.weight))
    )
    with Engine(threads=1) as engine:
        rehearse(engine, skeleton)

    assert seen == [True, True]
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())


def test_packable_weights_leave_experts_and_routers_alone():
    weights = packable_weights(random_module(OTHERS["mixtral"]()))

    assert "model.layers.0.self_attn.q_proj.weight" in weights
    assert not [name for name in weights if "expert" in name or "gate" in name]


def test_packable_weights_leave_alone_what_the_model_reads_itself():
    """Mamba multiplies with dt_proj.weight, in a branch of its forward."""
    module = random_module(OTHERS["mamba"]())
    weights = packable_weights(module)

    assert "dt_proj" in directly_read(module)
    assert "backbone.layers.0.mixer.in_proj.weight" in weights
    assert not [name for name in weights if "dt_proj" in name]


@needs_kernel
@pytest.mark.parametrize("name", ["mixtral"])  # mamba is refused: it has no keys and values
def test_packed_layers_suit_other_architectures(tmp_path, name):
    module = random_module(OTHERS[name]())
    module.save_pretrained(tmp_path / "source")
    (tmp_path / "baked").mkdir()
    bake_source(tmp_path / "source", tmp_path / "baked", dtype="auto", report=lambda *_: None)
    packed = Skeleton.load(tmp_path / "baked")
    ids = torch.tensor([PROMPTS[0]])

    assert packed_layers(packed)
    with torch.inference_mode():
        assert torch.equal(logits(packed, ids), module(input_ids=ids).logits)
