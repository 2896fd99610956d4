"""Baking a revision, in this process: what is published, reused, refused, and left."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.gptq_weights import gptq_weight

from pilotlight_loader import BakedCheckpoint, kernel_layout
from pilotlight_platform.baking import revision as revision_module
from pilotlight_platform.baking.directory import BakedDirectory, bake_directory
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.baking.unused import remove_unused
from pilotlight_platform.errors import SourceError
from pilotlight_platform.schemas.model import ModelSpec, Revision


def bake(source: Path, checkpoints: Path, **spec: object) -> tuple[Revision, bool, list[str]]:
    phases: list[str] = []
    model = ModelSpec.model_validate({"name": "m", "source": str(source), **spec})
    order = BakeOrder(
        spec=model, checkpoints_dir=checkpoints, cache_dir=checkpoints.parent / "cache"
    )
    done = bake_revision(order, lambda phase, *_: phases.append(phase))
    return done.revision, done.reused, phases


def test_bake_publishes_a_verified_revision(sample: Path, tmp_path: Path) -> None:
    revision, reused, phases = bake(sample, tmp_path)

    assert not reused
    assert list(dict.fromkeys(phases)) == ["check", "load", "bake", "verify"]
    assert [path.name for path in tmp_path.iterdir()] == [Path(revision.path).name]
    assert (Path(revision.path) / "model.safetensors").stat().st_size == revision.nbytes


def test_bake_publishes_files_that_nobody_may_write(sample: Path, tmp_path: Path) -> None:
    revision, _, _ = bake(sample, tmp_path)

    files = list(Path(revision.path).iterdir())
    assert files
    assert [path.name for path in files if path.stat().st_mode & 0o222] == []


def test_bake_same_source_again_is_reused(sample: Path, tmp_path: Path) -> None:
    first, _, _ = bake(sample, tmp_path)
    second, reused, phases = bake(sample, tmp_path)

    assert reused
    assert (second.id, second.path) == (first.id, first.path)
    assert "load" not in phases


def test_bake_two_names_share_the_checkpoint_but_not_the_revision(
    sample: Path, tmp_path: Path
) -> None:
    first, _, _ = bake(sample, tmp_path)
    second, reused, _ = bake(sample, tmp_path, name="other")

    assert reused
    assert second.path == first.path
    assert second.id != first.id


def test_bake_another_dtype_is_another_revision(sample: Path, tmp_path: Path) -> None:
    first, _, _ = bake(sample, tmp_path)
    second, reused, _ = bake(sample, tmp_path, dtype="bfloat16")

    assert not reused
    assert second.path != first.path
    assert second.dtype == "bfloat16"


def test_bake_for_another_kernel_is_another_revision(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = bake(sample, tmp_path)
    other = "onednn-other" if kernel_layout.kernel_id() is None else None
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: other)
    second, reused, _ = bake(sample, tmp_path)

    assert not reused
    assert second.path != first.path


def test_bake_quantized_is_another_revision_and_says_so(sample: Path, tmp_path: Path) -> None:
    plain, _, _ = bake(sample, tmp_path)
    int8, reused, _ = bake(sample, tmp_path, quantization="int8")
    again, _, _ = bake(sample, tmp_path, quantization="int8", quantization_skip=["lm_head"])

    assert not reused
    assert len({plain.path, int8.path, again.path}) == 3
    assert (plain.quantization, int8.quantization) == ("none", "int8")
    # A quarter for the layers; embeddings and output, most of this model, stay in float32.
    assert int8.nbytes < 0.5 * plain.nbytes


def test_bake_uniform_is_another_revision(sample: Path, tmp_path: Path) -> None:
    wish = {"quantization": "int4", "quantization_rounding": "nearest"}
    first, _, _ = bake(sample, tmp_path, **wish)
    second, reused, _ = bake(sample, tmp_path, **wish, quantization_uniform=True)

    assert not reused
    assert second.path != first.path


@pytest.mark.parametrize(
    ("wish", "rounding"),
    [
        ({}, None),
        ({"quantization": "int8"}, "gptq"),  # what auto takes: the sample is small
        ({"quantization": "int8", "quantization_rounding": "nearest"}, "nearest"),
    ],
)
def test_bake_says_how_it_rounded(
    sample: Path, tmp_path: Path, wish: dict[str, str], rounding: str | None
) -> None:
    first, _, _ = bake(sample, tmp_path, **wish)
    again, reused, _ = bake(sample, tmp_path, **wish)

    assert reused
    assert (first.rounding, again.rounding) == (rounding, rounding)


def test_bake_quantized_by_an_older_version_is_not_used_again(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"quantization": "int8", "quantization_rounding": "nearest"}
    first, _, _ = bake(sample, tmp_path, **wish)
    later = revision_module.QUANTIZATION_VERSION + 1
    monkeypatch.setattr(revision_module, "QUANTIZATION_VERSION", later)
    second, reused, _ = bake(sample, tmp_path, **wish)

    assert not reused
    assert second.path != first.path


def test_bake_of_a_quantized_source_names_its_method_and_the_readers_version(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _in_gptq(sample, tmp_path / "gptq")
    checkpoints = tmp_path / "checkpoints"
    first, _, _ = bake(source, checkpoints)
    _, same_is_reused, _ = bake(source, checkpoints)
    monkeypatch.setattr(revision_module, "READERS_VERSION", revision_module.READERS_VERSION + 1)
    second, reused, _ = bake(source, checkpoints)

    assert first.quantization == "int4 (gptq)"
    assert same_is_reused
    assert not reused
    assert second.path != first.path


def _in_gptq(plain: Path, directory: Path) -> Path:
    """*plain* with the output projections of its attention as GPTQ stores them."""
    shutil.copytree(plain, directory)
    tensors = load_file(plain / "model.safetensors")
    for name in [name for name in tensors if name.endswith("o_proj.weight")]:
        made = gptq_weight(tensors.pop(name), 128).tensors
        tensors |= {name.removesuffix("weight") + key: tensor for key, tensor in made.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_bake_into_a_directory_keeps_sparse_weights_compressed(
    sample: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(sample, tmp_path / "sparse"))
    tensors = load_file(source / "model.safetensors")
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            weight.view(-1, 4)[:, 1:3] = 0
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    spec = ModelSpec.model_validate(
        {"name": "m", "source": str(source), "dtype": "bfloat16", "sparsity": "2:4"}
    )
    made = bake_directory(spec, tmp_path / "made", tmp_path / "cache", None, lambda *_: None)

    baked = BakedCheckpoint.open(made.path / "model.safetensors")
    assert baked.sparse
    assert made.baked.quantization == "none"


def test_bake_into_a_directory_is_whole_or_nothing(sample: Path, tmp_path: Path) -> None:
    def into(destination: Path, **spec: object) -> BakedDirectory:
        model = ModelSpec.model_validate({"name": "m", "source": str(sample), **spec})
        return bake_directory(model, destination, tmp_path / "cache", None, lambda *_: None)

    made = into(tmp_path / "made", quantization="int8")

    assert (made.path / "model.safetensors").stat().st_size == made.baked.nbytes
    with pytest.raises(SourceError, match="exists already"):
        into(tmp_path / "made")
    with pytest.raises(SourceError, match="no weight is left"):
        into(tmp_path / "other", quantization="int8", quantization_skip=["*"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_bake_refused_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such directory"):
        bake(tmp_path / "none", tmp_path / "checkpoints")

    assert list(tmp_path.glob("checkpoints/*")) == []


def test_remove_unused_keeps_what_is_used(tmp_path: Path) -> None:
    for name in ("live", "old", "dead.abc.part"):
        (tmp_path / name).mkdir()
    remove_unused(tmp_path, {str(tmp_path / "live")})

    assert [path.name for path in tmp_path.iterdir()] == ["live"]
