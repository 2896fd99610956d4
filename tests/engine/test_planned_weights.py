"""Bytes of a bake that was not made yet: those that it has when it is."""

import json
import shutil
from pathlib import Path

import pytest
from support.object_server import ObjectServer

from pilotlight_loader import CheckpointError
from pilotlight_platform.baking.revision import quantizing_of
from pilotlight_platform.engine.planned_weights import plan_weights
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import SourceError
from pilotlight_platform.schemas.model import ModelSpec

HEADER_BYTES = 16 << 10  # at most, of a file with so few tensors; the plan counts tensors alone


def spec(source, **changes):
    return ModelSpec(name="m", source=str(source), **changes)


def baked_bytes(source, directory, **options):
    directory.mkdir()
    return bake_source(
        Path(source), directory, report=lambda *_: None, **{"dtype": "auto", **options}
    ).nbytes


@pytest.fixture(scope="module")
def large(make_source, tmp_path_factory):
    """Large enough for its matrices to be quantized."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    return make_source("llama", tmp_path_factory.mktemp("large") / "source", **shape)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_planned_bytes_are_those_of_the_bake(large, tmp_path, dtype):
    planned = plan_weights(spec(large, dtype=dtype), ("none",))

    assert planned.nbytes["none"] == planned.plain_nbytes
    made = baked_bytes(large, tmp_path / "b", dtype=dtype)
    assert 0 <= made - planned.nbytes["none"] <= HEADER_BYTES
    assert planned.layers == 2
    assert planned.source_nbytes == (large / "model.safetensors").stat().st_size
    assert not planned.estimated


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_planned_bytes_are_those_of_a_quantized_bake(large, tmp_path, kind):
    planned = plan_weights(spec(large, dtype="bfloat16"), ("none", kind))
    wish = Quantizing(kind, rounding="nearest")
    made = baked_bytes(large, tmp_path / "b", dtype="bfloat16", quantizing=wish)

    assert 0 <= made - planned.nbytes[kind] <= HEADER_BYTES
    assert planned.nbytes[kind] < planned.nbytes["none"]


@pytest.mark.parametrize("kind", ["int4", "fp8"])
@pytest.mark.parametrize("uniform", [False, True])
def test_planned_bytes_count_the_layers_that_get_more_bits(make_source, tmp_path, kind, uniform):
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 5}
    source = make_source("llama", tmp_path / "source", **shape)
    wish = {"quantization": kind, "quantization_uniform": uniform}
    planned = plan_weights(spec(source, **wish), ("none", kind))
    quantizing = quantizing_of(spec(source, **wish, quantization_rounding="nearest"))
    made = baked_bytes(source, tmp_path / "b", quantizing=quantizing)

    assert 0 <= made - planned.nbytes[kind] <= HEADER_BYTES


def test_planned_bytes_of_sparse_weights_are_estimated(large):
    found = plan_weights(spec(large, dtype="bfloat16", sparsity="2:4"), ("none",))
    plain = plan_weights(spec(large, dtype="bfloat16"), ("none",))

    assert found.estimated
    assert 0.5 * plain.nbytes["none"] < found.nbytes["none"] < plain.nbytes["none"]


def test_plan_of_a_remote_source_reads_no_weight(large):
    weights = large / "model.safetensors"
    with ObjectServer() as server:
        for file in large.iterdir():
            server.put(f"/m/{file.name}", file.read_bytes())
        planned = plan_weights(spec(f"{server.url}/m"), ("none",))
        asked = [seen for seen in server.gets if seen.path == "/m/model.safetensors"]

    assert planned == plan_weights(spec(large), ("none",))
    # The first read is of 128 KiB, in which the header stands.
    assert 0 < len(asked) <= 2
    assert weights.stat().st_size > 2 * 128 * 1024


@pytest.mark.parametrize("remote", [False, True])
def test_plan_names_a_source_without_a_config(large, tmp_path, remote):
    source = Path(shutil.copytree(large, tmp_path / "s"))
    (source / "config.json").unlink()
    with ObjectServer() as server:
        for file in source.iterdir():
            server.put(f"/m/{file.name}", file.read_bytes())
        where = f"{server.url}/m" if remote else str(source)
        with pytest.raises(SourceError, match=r"config\.json: no such file") as refused:
            plan_weights(spec(where), ("none",))

    assert refused.value.message.startswith(where)


def test_plan_refuses_a_model_with_code_of_its_own(large, tmp_path):
    source = Path(shutil.copytree(large, tmp_path / "s"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x"}}))

    with pytest.raises(SourceError, match="auto_map"):
        plan_weights(spec(source), ("none",))


def test_plan_of_a_missing_source_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        plan_weights(spec(tmp_path / "none"), ("none",))


def test_planned_bytes_leave_out_what_is_skipped(large):
    def planned(**change):
        return plan_weights(spec(large, dtype="bfloat16", quantization="int8", **change), ("int8",))

    some = planned(quantization_skip=("model.layers.0",)).nbytes["int8"]
    assert planned().nbytes["int8"] < some < planned().plain_nbytes
