"""`pilotlight bench quant` on shapes of seconds: what a wrong figure could come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pilotlight_deploy.bench.load.models import BenchModel, make_model
from pilotlight_deploy.bench.quant import gguf_file, llamacpp_peer
from pilotlight_deploy.bench.quant.bytes_cases import bytes_figures, planned_bytes
from pilotlight_deploy.bench.quant.link_case import measure_link
from pilotlight_deploy.bench.quant.quality_cases import QualityCases, Variant, held_out_windows
from pilotlight_deploy.bench.quant.run import in_fresh_process
from pilotlight_deploy.bench.quant.speed_cases import measure_speed
from pilotlight_deploy.sample import TRAINED, write_sample
from pilotlight_platform.engine.skeleton import load_tokenizer

KINDS: dict[str, Any] = {"bf16": "none", "int8": "int8", "int4": "int4"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BenchModel]:
    home = tmp_path_factory.mktemp("home")
    return {kind: make_model(home, "tiny", lambda _: None, KINDS[kind]) for kind in KINDS}


@pytest.fixture
def bf16_source(tmp_path: Path) -> Path:
    """The tiny sample in bfloat16, as the bench's is."""
    source = write_sample(tmp_path / "tiny", "tiny").path
    weights = load_file(source / "model.safetensors")
    save_file(
        {name: tensor.bfloat16() for name, tensor in weights.items()},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    return source


def test_quality_compares_the_model_with_itself(tmp_path: Path) -> None:
    quality = QualityCases(tmp_path, tokens=1024)

    # GPTQ, which is the default, takes its time: once is enough.
    variants = [Variant("int8", "int8"), *(Variant(k, k, "nearest") for k in ("fp8", "int4"))]
    quality.run(variants, lambda _: None)

    figures = {figure.id: figure for figure in quality.figures()}
    assert figures["quant.int8.top1_agreement"].value > figures["quant.int4.top1_agreement"].value
    assert figures["quant.int4.top1_agreement"].value > 0.8
    assert figures["quant.int8.perplexity_ratio"].value == pytest.approx(1, abs=0.01)
    assert figures["quant.int8.top1_agreement"].n == 1024
    (served,) = (case for case in quality.cases if case["case"] == "quality_served_int8")
    assert served["top1_agreement"] > 0.95


def test_held_out_windows_span_all_files() -> None:
    tokenizer = load_tokenizer(TRAINED)
    assert tokenizer is not None

    few, all_of_them = held_out_windows(TRAINED, 2048), held_out_windows(TRAINED, 10**9)

    assert len(few) == 4
    assert torch.equal(few[0], all_of_them[0])
    assert torch.equal(few[2], all_of_them[2 * len(all_of_them) // 4])


def test_planned_bytes_are_those_of_the_file(models: dict[str, BenchModel]) -> None:
    config = models["bf16"].skeleton.config
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    planned = planned_bytes(module)

    for kind, model in models.items():
        written = sum(info.nbytes for info in model.baked.tensors.values())
        assert written <= planned[kind] < written * 1.01


def test_bytes_of_7b_keep_their_ids(models: dict[str, BenchModel]) -> None:
    figures, _ = bytes_figures(models)

    assert [figure.id for figure in figures] == [
        "quant.int8.bytes_ratio",
        "quant.int4.bytes_ratio",
        "quant.int8.bytes_ratio_7b",
        "quant.int4.bytes_ratio_7b",
    ]


def test_link_loads_codes_into_quantized_layers(
    models: dict[str, BenchModel], tmp_path: Path
) -> None:
    with models["int4"].baked.map() as mapped:
        models["int4"].skeleton.plan.attach(mapped)
        expected = models["int4"].first_token()
        models["int4"].detach()
    pair = {kind: models[kind] for kind in ("bf16", "int4")}
    chosen = []
    original = BenchModel.first_token
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            BenchModel, "first_token", lambda model: chosen.append(original(model)) or chosen[-1]
        )
        measured = measure_link(pair, tmp_path, rounds=1, bytes_per_s=1e9)

    assert chosen[1] == expected
    assert measured.figures()[0].id == "quant.int4.remote_ttft_ratio"
    assert {case["case"] for case in measured.cases} == {"link_bf16", "link_int4"}


def test_speed_is_measured_of_every_kind_in_a_process_of_its_own(
    models: dict[str, BenchModel],
) -> None:
    directories = {kind: model.path.parent for kind, model in models.items()}

    measured = in_fresh_process(measure_speed, directories, rounds=2, threads=1)

    assert {figure.id: figure.n for figure in measured.figures()} == {
        "quant.int8.decode_speedup": 2,
        "quant.int4.decode_speedup": 2,
        "quant.int4.prefill_ratio": 2,
    }
    assert all(seconds > 0 for values in measured.decode_s.values() for seconds in values)


def test_gguf_names_are_llamas() -> None:
    assert gguf_file.gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    assert gguf_file.gguf_name("model.layers.11.mlp.down_proj.weight") == "blk.11.ffn_down.weight"


def test_llamacpp_that_is_missing_is_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp_peer, "find_spec", lambda _: None)

    figures, cases = llamacpp_peer.llamacpp_figures(tmp_path, 1, 1)

    assert figures == []
    assert "pip install" in cases[0]["missing"]


def test_llamacpp_answers_as_transformers(bf16_source: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    gguf_file.write_gguf(bf16_source, tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(bf16_source, dtype=torch.float32)
    ids = llamacpp_peer.prompt(24, 1024)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]

    with llamacpp_peer._context(tmp_path / "tiny.gguf", 1) as (context, vocabulary):
        token = llamacpp_peer._decode(context, ids, vocabulary)

    assert vocabulary == 1024
    assert token in logits.topk(3).indices
