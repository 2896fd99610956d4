"""Checkpoints that are not on a disk here; test_checkpoint.py has what holds for all."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save
from support.object_server import ObjectServer, answer, ignore_if_match, ignore_range
from support.reading import checkpoint_files, read
from support.waiting import until

from pilotlight_loader import (
    HeaderError,
    MissingShardError,
    TensorInfo,
    UnsafeCheckpointError,
    open_checkpoint,
)
from pilotlight_loader.errors import (
    AccessDeniedError,
    CheckpointError,
    ObjectChangedError,
    RangeAnswerError,
)
from pilotlight_loader.weight_files import FIRST_READ_BYTES

INDEX = "model.safetensors.index.json"


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as running:
        for name, data in checkpoint_files().items():
            running.put(f"/model/{name}", data)
        yield running


@pytest.fixture
def url(server) -> str:
    return f"{server.url}/model"


def test_remote_checkpoint_says_where_each_tensor_is(url):
    with open_checkpoint(url) as checkpoint:
        data = checkpoint_files()["weights/two.safetensors"]

        assert checkpoint.tensors["b"] == TensorInfo("b", "F32", (3,), len(data) - 12, len(data))
        assert checkpoint.file_of("b") == "weights/two.safetensors"
        assert checkpoint.nbytes == 28


def test_remote_checkpoint_reads_no_weights(url, server):
    server.put("/model/model.safetensors", save({"a": torch.zeros(1_000_000)}))
    with open_checkpoint(url):
        asked = [(seen.method, seen.headers.get("range")) for seen in server.requests]

    assert asked == [("GET", f"bytes=0-{FIRST_READ_BYTES - 1}")]  # which pins it, too


def test_remote_checkpoint_is_pinned_by_its_header(url, server):
    server.put("/model/model.safetensors", save({"a": torch.zeros(1_000_000)}))
    with open_checkpoint(url) as checkpoint:
        server.put("/model/model.safetensors", save({"a": torch.ones(1_000_000)}), etag='"two"')
        source = checkpoint.source("model.safetensors")

        with pytest.raises(ObjectChangedError):
            read(source, source.version.nbytes - 4, 4)


def test_remote_checkpoint_opens_where_ranges_are_ignored_or_short(url, server):
    data = save({"a": torch.zeros(3)})
    server.put("/model/model.safetensors", data)
    total = len(data)

    def ten_bytes(handler) -> None:
        headers = {"Content-Range": f"bytes 0-9/{total}", "ETag": '"one"'}
        handler.send_answer(206, headers, data[:10])

    for answer_first in (ignore_range, ten_bytes):
        server.script("/model/model.safetensors", answer_first)
        with open_checkpoint(url) as checkpoint:
            assert checkpoint.tensors["a"].shape == (3,)


def test_remote_checkpoint_reads_a_long_header(url, server):
    tensors = {f"layer.{number}": torch.zeros(1) for number in range(4000)}
    server.put("/model/model.safetensors", save(tensors))
    with open_checkpoint(url) as checkpoint:
        assert checkpoint.tensors.keys() == tensors.keys()


def test_remote_checkpoint_is_that_of_the_index(url):
    # consolidated.safetensors lies beside the shards, and total_size is wrong.
    with open_checkpoint(url) as checkpoint:
        assert checkpoint.files == ("one.safetensors", "weights/two.safetensors")
        assert checkpoint.file_of("a") == "one.safetensors"


def test_remote_checkpoint_gives_one_source_for_all(url):
    with open_checkpoint(url) as checkpoint:
        tensor = checkpoint.tensors["b"]
        source = checkpoint.source(checkpoint.file_of("b"))

        assert checkpoint.source(checkpoint.file_of("b")) is source
        assert read(source, tensor.start, tensor.nbytes) == b"\0\0\x80?" * 3


def test_remote_checkpoint_pins_its_files_when_it_is_opened(url, server):
    with open_checkpoint(url) as checkpoint:
        server.put("/model/one.safetensors", b"x" * 1000, '"two"')
        server.always = ignore_if_match
        source = checkpoint.source("one.safetensors")

        with pytest.raises(ObjectChangedError):
            read(source, 0, 8)


def test_remote_checkpoint_opens_one_file(url):
    with open_checkpoint(f"{url}/one.safetensors") as checkpoint:
        assert checkpoint.tensors.keys() == {"a"}
        assert checkpoint.side_files == ()


def test_remote_checkpoint_finds_side_files_without_a_listing(url):
    with open_checkpoint(url) as checkpoint:
        assert checkpoint.side_files == ("config.json", INDEX)


def test_remote_checkpoint_digests_like_a_local_one(url, tmp_path):
    (tmp_path / "weights").mkdir()
    for name, data in checkpoint_files().items():
        (tmp_path / name).write_bytes(data)
    with open_checkpoint(url) as remote, open_checkpoint(tmp_path) as local:
        assert remote.digest() == local.digest()


def test_remote_checkpoint_that_is_not_there_is_refused(server):
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        open_checkpoint(f"{server.url}/absent")


def test_remote_file_that_is_not_there_is_refused(url):
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(f"{url}/absent.safetensors")


def test_remote_pickle_is_refused_without_asking(url, server):
    with pytest.raises(UnsafeCheckpointError, match="pickle checkpoints are refused"):
        open_checkpoint(f"{url}/pytorch_model.bin")
    assert server.requests == []


def test_remote_checkpoint_with_a_missing_shard_names_it(url, server):
    del server.objects["/model/weights/two.safetensors"]

    with pytest.raises(MissingShardError, match=r"weights/two\.safetensors"):
        open_checkpoint(url)


def test_remote_checkpoint_with_a_denied_shard_is_denied(url, server):
    server.script("/model/one.safetensors", answer(403))

    with pytest.raises(AccessDeniedError):
        open_checkpoint(url)


def test_remote_checkpoint_that_cannot_be_opened_keeps_no_thread(url, server):
    del server.objects["/model/weights/two.safetensors"]
    with pytest.raises(MissingShardError):
        open_checkpoint(url)

    assert not [t for t in threading.enumerate() if t.name.startswith("pilotlight-headers")]


def test_remote_checkpoint_outlives_a_server_in_trouble(url, server):
    busy = answer(503, Retry_After="0")
    server.script("/model/one.safetensors", busy, busy)

    with open_checkpoint(url) as checkpoint:
        assert checkpoint.tensors.keys() == {"a", "b"}


@pytest.mark.parametrize("length", [2**63, 100_000_001, 1_000_000])
def test_remote_header_bomb_is_refused_before_it_is_read(url, server, length):
    server.put("/model/model.safetensors", struct.pack("<Q", length) + b"{}" * 100)

    with pytest.raises(HeaderError, match=rf"a header of {length} bytes"):
        open_checkpoint(url)
    assert len(server.requests) == 1


def test_remote_index_bomb_is_refused_before_it_is_read(url, server):
    server.always = lambda handler: handler.send_answer(
        *((206, {"Content-Range": "bytes 0-0/100000001", "ETag": '"e"'}, b"{")
          if handler.path.endswith(INDEX) else (404, {}, b""))
    )  # fmt: skip

    with pytest.raises(CheckpointError, match="an index of 100000001 bytes"):
        open_checkpoint(url)
    assert len(server.gets) == 2


def test_remote_index_with_too_many_shards_is_refused(url, server):
    weight_map = {str(n): f"{n}.safetensors" for n in range(10_001)}
    server.put(f"/model/{INDEX}", json.dumps({"weight_map": weight_map}).encode())

    with pytest.raises(CheckpointError, match="10001 shards; at most 10000"):
        open_checkpoint(url)


def test_remote_index_that_points_outside_is_refused(url, server):
    server.put(f"/model/{INDEX}", json.dumps({"weight_map": {"a": "../x.safetensors"}}).encode())

    with pytest.raises(UnsafeCheckpointError, match="outside its directory"):
        open_checkpoint(url)


def test_remote_server_without_ranges_is_refused(url, server):
    server.put("/model/model.safetensors", save({"a": torch.zeros(1_000_000)}))
    server.always = lambda handler: handler.send_answer(
        200, handler.stored().headers, handler.stored().data
    )

    with pytest.raises(RangeAnswerError, match="ignores ranges"):
        open_checkpoint(url)


def test_checkpoint_that_was_closed_gives_no_sources(url):
    with open_checkpoint(url) as checkpoint:
        pass

    with pytest.raises(ValueError, match="is closed"):
        checkpoint.source("one.safetensors")


def test_remote_checkpoint_closes_its_connections(url, server):
    with open_checkpoint(url):
        pass

    until(lambda: all(connection.fileno() < 0 for connection in server.connections))
