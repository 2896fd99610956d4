from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pilotlight_loader import (
    CheckpointError,
    HeaderError,
    MissingShardError,
    UnsafeCheckpointError,
    open_checkpoint,
)

INDEX = "model.safetensors.index.json"


@pytest.fixture
def single(tmp_path):
    """One file, with a config and a tokenizer beside it."""
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text('{"vocab": 1}')
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index."""
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    return tmp_path


def write_index(directory, weight_map) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_checkpoint_opens_a_single_file_directory(single):
    checkpoint = open_checkpoint(single)

    assert checkpoint.tensors.keys() == {"a", "b"}
    assert checkpoint.files == ("model.safetensors",)
    assert checkpoint.nbytes == 20


def test_checkpoint_opens_a_file(single):
    assert open_checkpoint(single / "model.safetensors").tensors.keys() == {"a", "b"}


def test_checkpoint_opens_shards(sharded):
    checkpoint = open_checkpoint(sharded)

    assert checkpoint.tensors.keys() == {"a", "b"}
    assert checkpoint.files == ("one.safetensors", "two.safetensors")


def test_checkpoint_opens_what_transformers_saves(llama, tmp_path):
    llama.model.save_pretrained(tmp_path, max_shard_size="50KB")
    checkpoint = open_checkpoint(tmp_path)

    assert len(checkpoint.files) > 1
    assert checkpoint.tensors.keys() == llama.model.state_dict().keys()


def test_checkpoint_opens_a_cache_snapshot_of_symlinks(sharded, tmp_path_factory):
    snapshot = tmp_path_factory.mktemp("snapshot")
    for file in sharded.iterdir():
        (snapshot / file.name).symlink_to(file)

    assert open_checkpoint(snapshot).tensors.keys() == {"a", "b"}


def test_checkpoint_opens_shards_in_a_subfolder(tmp_path):
    (tmp_path / "weights").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "weights/one.safetensors")
    write_index(tmp_path, {"a": "weights/one.safetensors"})

    assert open_checkpoint(tmp_path).tensors.keys() == {"a"}


def test_checkpoint_takes_two_spellings_of_one_shard(sharded):
    save_file({"b": torch.ones(3), "c": torch.ones(3)}, sharded / "two.safetensors")
    write_index(sharded, {"a": "one.safetensors", "b": "two.safetensors", "c": "./two.safetensors"})

    assert open_checkpoint(sharded).tensors.keys() == {"a", "b", "c"}


def test_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_checkpoint(tmp_path / "absent")


def test_checkpoint_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds neither"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"]
)
def test_checkpoint_of_pickles_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")

    with pytest.raises(UnsafeCheckpointError, match=f"only {name}: pickle checkpoints are refused"):
        open_checkpoint(tmp_path)


def test_checkpoint_file_that_is_a_pickle_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04")

    with pytest.raises(UnsafeCheckpointError, match="save_pretrained"):
        open_checkpoint(tmp_path / "model.pt")


def test_checkpoint_prefers_safetensors_to_a_pickle_beside_it(single):
    (single / "pytorch_model.bin").write_bytes(b"\x80\x04")

    assert open_checkpoint(single).tensors.keys() == {"a", "b"}


@pytest.mark.parametrize(
    "name",
    ["../one.safetensors", "sub/../../one.safetensors", "/one.safetensors", "..\\one.safetensors",
     "C:\\one.safetensors", "one\0.safetensors"],
)  # fmt: skip
def test_checkpoint_index_that_points_outside_is_refused(sharded, name):
    write_index(sharded, {"a": name})

    with pytest.raises(UnsafeCheckpointError, match="outside its directory"):
        open_checkpoint(sharded)


def test_checkpoint_index_that_names_a_pickle_is_refused(sharded):
    write_index(sharded, {"a": "one.bin"})

    with pytest.raises(UnsafeCheckpointError, match=r"names 'one\.bin'"):
        open_checkpoint(sharded)


def test_checkpoint_with_a_missing_shard_names_it(sharded):
    (sharded / "two.safetensors").unlink()

    with pytest.raises(MissingShardError, match=r"two\.safetensors"):
        open_checkpoint(sharded)


def test_checkpoint_with_a_fifo_for_a_shard_does_not_wait(sharded):
    (sharded / "two.safetensors").unlink()
    os.mkfifo(sharded / "two.safetensors")

    with pytest.raises(MissingShardError):
        open_checkpoint(sharded)


def test_checkpoint_with_a_tensor_missing_in_its_shard_names_it(sharded):
    write_index(sharded, {"a": "one.safetensors", "b": "one.safetensors"})

    with pytest.raises(CheckpointError, match=r"'b' in one\.safetensors: not there"):
        open_checkpoint(sharded)


def test_checkpoint_with_a_tensor_in_another_shard_than_the_index_says_is_refused(sharded):
    write_index(sharded, {"a": "two.safetensors", "b": "one.safetensors"})

    with pytest.raises(CheckpointError, match=r"'a' in two\.safetensors: not there"):
        open_checkpoint(sharded)


def test_checkpoint_with_a_tensor_in_two_shards_names_both(sharded):
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, sharded / "two.safetensors")

    with pytest.raises(CheckpointError, match=r"'a' stands in one\.safetensors and in two\.safet"):
        open_checkpoint(sharded)


def test_checkpoint_with_a_truncated_shard_is_refused(sharded):
    os.truncate(sharded / "two.safetensors", (sharded / "two.safetensors").stat().st_size - 1)

    with pytest.raises(HeaderError, match="truncated"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"weight_map": {}}', '{"weight_map": 1}', '{"weight_map": {"a": 1}}',
     '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'],
)  # fmt: skip
def test_checkpoint_with_a_broken_index_is_refused(sharded, text):
    (sharded / INDEX).write_text(text)

    with pytest.raises(CheckpointError, match="broken index"):
        open_checkpoint(sharded)


def test_digest_is_the_same_for_a_copy(single, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    for file in single.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())

    assert open_checkpoint(copy).digest() == open_checkpoint(single).digest()


def test_digest_changes_with_the_weights(single):
    before = open_checkpoint(single).digest()
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, single / "model.safetensors")

    assert open_checkpoint(single).digest() != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_digest_changes_with_a_file_beside_the_weights(single, name):
    before = open_checkpoint(single).digest()
    (single / name).write_text('{"changed": true}')

    assert open_checkpoint(single).digest() != before


def test_digest_changes_when_bytes_move_between_files(single):
    before = open_checkpoint(single).digest()
    (single / "config.json").write_text('{"vocab": 1}')
    (single / "tokenizer.json").write_text("{}")

    assert open_checkpoint(single).digest() != before


def test_digest_reports_progress_to_the_last_byte(single):
    seen: list[tuple[int, int]] = []
    open_checkpoint(single).digest(lambda done, total: seen.append((done, total)))

    assert seen[-1][0] == seen[-1][1] == sum(file.stat().st_size for file in single.iterdir())


def test_digest_of_a_file_that_went_away_is_a_checkpoint_error(single):
    checkpoint = open_checkpoint(single)
    (single / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.digest()
