from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pilotlight_loader import (
    BakedCheckpoint,
    CheckpointError,
    ChecksumError,
    HeaderError,
    LayoutVersionError,
)

CHUNK = 16 * 1024 * 1024


@pytest.fixture
def baked(bake_module):
    return bake_module(nn.Linear(3, 2))


@pytest.fixture
def large(bake_module):
    """A little more than two chunks."""
    module = nn.Module()
    module.register_buffer("t", torch.zeros(2 * CHUNK + 10, dtype=torch.uint8))
    return bake_module(module)


def edit_header(baked, change) -> None:
    """Let *change* alter the parsed header, and write it back in its old length."""
    raw = bytearray(baked.path.read_bytes())
    length = baked.data_start - 8
    header = json.loads(raw[8 : 8 + length])
    change(header)
    raw[8 : 8 + length] = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    baked.path.write_bytes(raw)


def test_baked_opens_as_it_was_baked(any_model):
    assert BakedCheckpoint.open(any_model.baked.path) == any_model.baked


def test_baked_knows_the_size_of_its_file(baked):
    assert baked.nbytes == baked.path.stat().st_size


def test_baked_lists_no_pads(any_model):
    assert not any(name.startswith("__pad__") for name in any_model.baked.tensors)


def test_baked_refuses_a_plain_checkpoint(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")

    with pytest.raises(LayoutVersionError, match="not a baked checkpoint"):
        BakedCheckpoint.open(tmp_path / "model.safetensors")


def test_baked_refuses_another_layout_version(baked):
    edit_header(baked, lambda header: header["__metadata__"].update({"pilotlight.layout": "99"}))

    with pytest.raises(LayoutVersionError, match="baked in layout 99"):
        BakedCheckpoint.open(baked.path)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pilotlight.ties", "[", "broken metadata"),
        ("pilotlight.ties", '{"a": 1}', "tied to no name"),
        ("pilotlight.ties", '{"a": "absent"}', "cannot be tied to 'absent'"),
        ("pilotlight.ties", '{"bias": "weight"}', "'bias' cannot be tied"),
        ("pilotlight.ties", '{"\ud800": "\ud800"}', "half of a surrogate pair"),
        ("pilotlight.ties", r'{"\ud800": "\ud800"}', "broken metadata .* half of a surrogate pair"),
        ("pilotlight.crc32", "zz", "broken metadata"),
        ("pilotlight.crc32", "abc0", "broken metadata"),
        ("pilotlight.crc32", "", "0 checksums do not fit"),
        ("pilotlight.crc32", "00" * 8, "2 checksums do not fit"),
    ],
    ids=ascii,
)
def test_baked_refuses_damaged_metadata(baked, key, value, reason):
    edit_header(baked, lambda header: header["__metadata__"].update({key: value}))

    with pytest.raises(HeaderError, match=reason):
        BakedCheckpoint.open(baked.path)


def test_baked_refuses_data_off_the_page(baked):
    raw = baked.path.read_bytes()
    header = raw[8 : baked.data_start].rstrip()
    baked.path.write_bytes(struct.pack("<Q", len(header)) + header + raw[baked.data_start :])

    with pytest.raises(HeaderError, match="not on 4096"):
        BakedCheckpoint.open(baked.path)


def test_baked_refuses_a_tensor_off_its_alignment(bake_module):
    module = nn.Module()
    module.register_buffer("a", torch.zeros(256, dtype=torch.uint8))
    module.register_buffer("b", torch.zeros(256, dtype=torch.uint8))
    baked = bake_module(module)

    def shift(header) -> None:
        header["a"].update(shape=[255], data_offsets=[0, 255])
        header["b"].update(shape=[257], data_offsets=[255, 512])

    edit_header(baked, shift)

    with pytest.raises(HeaderError, match="'b' does not stand on 256"):
        BakedCheckpoint.open(baked.path)


def test_baked_refuses_a_truncated_file(baked):
    os.truncate(baked.path, baked.nbytes - 1)

    with pytest.raises(HeaderError, match="truncated"):
        BakedCheckpoint.open(baked.path)


def test_verify_accepts_what_was_baked(any_model):
    any_model.baked.verify()


@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 9])
def test_verify_names_the_damaged_chunk(large, at):
    with large.path.open("r+b") as file:
        file.seek(large.data_start + at)
        file.write(b"\x01")

    with pytest.raises(ChecksumError, match=f"chunk {at // CHUNK} of 3, at byte"):
        large.verify()


def test_verify_of_a_file_that_went_away_is_a_checkpoint_error(baked):
    baked.path.unlink()

    with pytest.raises(CheckpointError, match="cannot be read"):
        baked.verify()


def test_map_refuses_a_file_of_another_size(baked):
    os.truncate(baked.path, baked.nbytes - 1)  # a read past the end of the file is a SIGBUS

    with pytest.raises(CheckpointError, match="replaced"):
        baked.map()


def test_map_of_a_file_that_went_away_is_a_checkpoint_error(baked):
    baked.path.unlink()

    with pytest.raises(CheckpointError, match="cannot be mapped"):
        baked.map()
