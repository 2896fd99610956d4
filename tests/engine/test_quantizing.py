"""A quantized revision: baked, verified, attached without a copy, and gone after a detach."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pilotlight_loader import BakedCheckpoint, DiskFullError
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.layers import QuantizedEmbedding, QuantizedLinear
from pilotlight_loader.quantize.matrix import INT4, TRELLIS
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_platform.engine import source
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.quantizing import Quantizing, quantizable_weights
from pilotlight_platform.engine.rehearsal import rehearse
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import SourceError, VerificationError

KINDS = ["int8", "int4", "fp8"]
CODINGS = {"int8": "int8", "int4": "trellis", "fp8": "fp8"}  # of a CPU


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_skeleton_takes_the_file_as_it_is(quantized, kind) -> None:
    skeleton = Skeleton.load(quantized(kind))
    replica = Replica.attach(skeleton)
    try:
        layer = skeleton.module.model.layers[0].mlp.up_proj
        embedding = skeleton.module.get_input_embeddings()
        anonymous = _anonymous_bytes(layer.weight_codes)

        assert isinstance(layer, QuantizedLinear)
        assert layer.stored.scheme.kind == CODINGS[kind]
        assert anonymous == 0
        assert isinstance(embedding, QuantizedEmbedding) == (kind == "int4")
        shared = "weight_codes" if kind == "int4" else "weight"
        theirs, ours = (getattr(m, shared) for m in (skeleton.module.lm_head, embedding))
        assert theirs.data_ptr() == ours.data_ptr()
    finally:
        replica.detach()
    assert layer.weight_codes.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_model_can_be_rehearsed(quantized, kind) -> None:
    skeleton = Skeleton.load(quantized(kind))
    with Engine(1) as engine:
        rehearse(engine, skeleton)

    assert not skeleton.attached


def test_quantized_skip_keeps_layers_in_bf16(quantized, tmp_path) -> None:
    wishes = Quantizing("int4", skip=("*.down_proj", "lm_head", "model.embed_tokens"))
    bake_source(
        quantized.source, tmp_path, dtype="bfloat16", report=lambda *_: None, quantizing=wishes
    )
    baked = BakedCheckpoint.open(tmp_path / "model.safetensors")

    assert "model.layers.0.mlp.up_proj.weight" in baked.quantized
    assert baked.tensors["model.layers.0.mlp.down_proj.weight"].dtype == "BF16"
    assert baked.tensors["model.embed_tokens.weight"].dtype == "BF16"


def test_quantized_skip_of_everything_is_refused(quantized, tmp_path) -> None:
    with pytest.raises(SourceError, match="no weight is left to quantize"):
        bake_source(
            quantized.source,
            tmp_path,
            dtype="bfloat16",
            report=lambda *_: None,
            quantizing=Quantizing("int8", skip=("*",)),
        )


TEXT = "the quick brown fox jumps over the lazy dog and a pilot light stays on at once " * 60


def test_quantized_with_gptq_is_nearer_on_the_text_than_the_nearest(quantized, tmp_path) -> None:
    made = {"nearest": quantized("int4"), "gptq": tmp_path / "gptq"}
    made["gptq"].mkdir()
    bake_source(
        quantized.source,
        made["gptq"],
        dtype="bfloat16",
        report=lambda *_: None,
        quantizing=Quantizing("int4", rounding="gptq", text=TEXT),
    )
    model = AutoModelForCausalLM.from_pretrained(quantized.source, dtype=torch.bfloat16)
    errors = {}
    for rounding, directory in made.items():
        skeleton = Skeleton.load(directory)
        ids = torch.tensor([skeleton.tokenizer(TEXT)["input_ids"][:64]])
        replica = Replica.attach(skeleton)
        with torch.inference_mode():
            off = skeleton.module(input_ids=ids).logits.float() - model(input_ids=ids).logits
        errors[rounding] = float(off.norm())
        replica.detach()

    assert errors["gptq"] < 0.95 * errors["nearest"]


def test_quantized_without_a_text_is_calibrated_with_what_the_model_says(
    quantized, tmp_path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(quantized.source, source, ignore=shutil.ignore_patterns("token*"))
    made = tmp_path / "made"
    made.mkdir()
    said = []
    bake_source(
        source,
        made,
        dtype="bfloat16",
        report=lambda _phase, message, *_: said.append(message),
        quantizing=Quantizing("int4"),
    )

    assert any(message.startswith("making up a text to calibrate with") for message in said)
    assert not any("rounding to the nearest" in message for message in said)
    assert not torch.equal(_codes(made), _codes(quantized("int4")))


def _lacking_memory(*_: object) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)  # torch's own error


def _lacking_room(*_: object) -> None:
    raise DiskFullError(Path("somewhere"), 2, 1)


@pytest.mark.parametrize(
    ("lacking", "error", "message"),
    [
        (_lacking_memory, RuntimeError, "allocate memory"),
        (_lacking_room, SourceError, "disk is full"),
    ],
)
def test_quantized_is_not_rounded_otherwise_for_want_of_what_may_come_back(
    quantized, tmp_path, monkeypatch, lacking, error, message
) -> None:
    monkeypatch.setattr(source, "own_windows", lacking)
    with pytest.raises(error, match=message):
        bake_source(
            quantized.source,
            tmp_path,
            dtype="bfloat16",
            report=lambda *_: None,
            quantizing=Quantizing("int4"),
        )


def test_quantized_with_a_text_needs_a_tokenizer(quantized, tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(quantized.source, source, ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(SourceError, match="needs a tokenizer, and there is none"):
        bake_source(
            source,
            tmp_path,
            dtype="bfloat16",
            report=lambda *_: None,
            quantizing=Quantizing("int4", text=TEXT),
        )


def test_quantized_with_many_weights_is_calibrated_with_a_text_that_comes_along(
    quantized, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(source, "AUTO_GPTQ_WEIGHTS", 1000)
    said = []
    result = bake_source(
        quantized.source,
        tmp_path,
        dtype="bfloat16",
        report=lambda _phase, message, *_: said.append(message),
        quantizing=Quantizing("int4", rounding="gptq"),
    )

    assert result.rounding == "gptq"
    assert not any(message.startswith("making up a text") for message in said)


@pytest.mark.parametrize(
    ("kind", "limit"), [("int8", "AUTO_GPTQ_WEIGHTS"), ("int4", "AUTO_GPTQ_TRELLIS_WEIGHTS")]
)
def test_quantized_with_many_weights_is_rounded_to_the_nearest_unless_asked(
    quantized, tmp_path, monkeypatch, kind, limit
) -> None:
    monkeypatch.setattr(source, limit, 1000)
    said = []
    bake_source(
        quantized.source,
        tmp_path,
        dtype="bfloat16",
        report=lambda _phase, message, *_: said.append(message),
        quantizing=Quantizing(kind),
    )

    assert any("rounding to the nearest: gptq of" in message for message in said)
    assert torch.equal(_codes(tmp_path), _codes(quantized(kind)))


def test_quantized_with_gptq_refuses_a_short_text(quantized, tmp_path) -> None:
    with pytest.raises(SourceError, match="gptq needs 512"):
        bake_source(
            quantized.source,
            tmp_path,
            dtype="bfloat16",
            report=lambda *_: None,
            quantizing=Quantizing("int4", rounding="gptq", text="too short"),
        )


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_for_another_device_has_the_same_codes_and_answers_here(
    quantized, tmp_path, kind
) -> None:
    said = _bake_for_a_gpu(quantized.source, tmp_path, kind)
    files = [BakedCheckpoint.open(d / "model.safetensors") for d in (tmp_path, quantized(kind))]
    weights = [_restored(file) for file in files]

    assert said[-1] == ("verify", "answers like its source")
    assert files[0].quantized == files[1].quantized
    assert files[0].nbytes == files[1].nbytes
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_quantized_in_4_bits_for_a_gpu_has_its_codes_and_answers_here(quantized, tmp_path) -> None:
    said = _bake_for_a_gpu(quantized.source, tmp_path, "int4")
    stored = BakedCheckpoint.open(tmp_path / "model.safetensors")
    ours = BakedCheckpoint.open(quantized("int4") / "model.safetensors")
    weights, theirs = _restored(stored), load_file(quantized.source / "model.safetensors")
    of_4_bits = [name for name in stored.quantized if ours.quantized[name].scheme == TRELLIS]

    assert said[-1] == ("verify", "answers like its source")
    assert stored.quantized.keys() == ours.quantized.keys()
    assert {stored.quantized[name].block for name in of_4_bits} == {8}
    assert {stored.quantized[name].scheme for name in of_4_bits} == {INT4}
    for name, weight in weights.items():
        if name in of_4_bits:
            plain = theirs[name].bfloat16()
            same = NearestRounding().matrix(name, plain, INT4).dequantize()
        else:
            same = _restored(ours)[name]

        assert torch.equal(weight, same)


def test_quantized_bake_leaves_one_file_of_weights(quantized) -> None:
    names = sorted(path.name for path in quantized("int4").glob("*.safetensors"))

    assert names == ["model.safetensors"]


def test_quantized_weights_that_answer_otherwise_are_refused(
    quantized, tmp_path, monkeypatch
) -> None:
    def restore_noise(module, baked) -> None:
        for parameter in module.parameters():
            parameter.data = torch.randn_like(parameter)

    monkeypatch.setattr(source, "restore_quantized", restore_noise)
    with pytest.raises(VerificationError):
        bake_source(
            quantized.source,
            tmp_path,
            dtype="bfloat16",
            report=lambda *_: None,
            quantizing=Quantizing("int8"),
        )


def test_quantizable_weights_are_not_those_that_model_code_reads(quantized) -> None:
    module = Skeleton.load(shutil.copytree(quantized("int4"), quantized("int4") / "x")).module

    assert quantizable_weights(module) == {}  # its linear layers are no plain ones any more


_WORKER = """
import re, sys
from pathlib import Path
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.replica import Replica
import torch
skeleton = Skeleton.load(Path(sys.argv[1]))
replica = Replica.attach(skeleton)
with torch.inference_mode():
    skeleton.module(input_ids=torch.arange(8)[None])
for tensor in skeleton.module.buffers():
    tensor.view(torch.uint8).sum()
print("attached", flush=True)
sys.stdin.readline()
def kib(field):
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        parts = line.split()
        if re.match(r"[0-9a-f]+-[0-9a-f]+$", parts[0]):
            ours = line.endswith("model.safetensors")
        elif ours and parts[0] == field + ":":
            found += int(parts[1])
    return found
print(kib("Rss"), kib("Pss"), kib("Anonymous"), flush=True)
sys.stdin.readline()
del tensor
replica.detach()
print(kib("Rss"), flush=True)
"""


def test_quantized_workers_count_one_file_once_and_give_it_back(quantized) -> None:
    directory = quantized("int4")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["attached\n"] * 2
        memory = []
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
            memory.append([int(kib) for kib in worker.stdout.readline().split()])
        left = []
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
            left.append(int(worker.stdout.readline()))
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()

    for rss, pss, anonymous in memory:
        assert rss > 0
        assert pss <= 0.6 * rss
        assert anonymous == 0
    assert left == [0, 0]


def _bake_for_a_gpu(source: Path, directory: Path, kind: str) -> list[tuple[str, str]]:
    said = []
    bake_source(
        source,
        directory,
        dtype="bfloat16",
        report=lambda phase, message, *_: said.append((phase, message)),
        quantizing=Quantizing(kind, rounding="nearest"),
        device="cuda",
    )
    return said


def _restored(baked: BakedCheckpoint) -> dict[str, torch.Tensor]:
    with baked.map() as mapped:
        tensors = mapped.tensors()
        return {
            name: device_layout.matrix(
                stored, tensors[name + "_codes"], tensors[name + "_scales"]
            ).dequantize()
            for name, stored in baked.quantized.items()
        }


def _codes(directory: Path) -> torch.Tensor:
    with BakedCheckpoint.open(directory / "model.safetensors").map() as mapped:
        return mapped.tensors()["model.layers.0.mlp.up_proj.weight_codes"].clone()


def _anonymous_bytes(tensor: torch.Tensor) -> int:
    """Memory that is the process's own, in the mapping in which *tensor* stands."""
    address = tensor.data_ptr()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            inside = start <= address < end
        elif inside and head == "Anonymous:":
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")
