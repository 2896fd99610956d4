"""The loader as its users call it: a checkpoint behind HTTP, through the cache, into a module."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.cache_content import begin
from support.object_server import ObjectServer, close_early, ignore_if_match
from torch import nn

from pilotlight_loader import (
    Cache,
    HttpOptions,
    LoadCancelledError,
    LoadFailedError,
    begin_load,
    load,
    open_checkpoint,
    stream,
)
from pilotlight_loader.cache import chunk_writers
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.layout import CHUNK_BYTES


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return network()


@pytest.fixture
def server(model: nn.Module, tmp_path: Path) -> Iterator[ObjectServer]:
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    with ObjectServer() as server:
        server.put("/m/model.safetensors", file.read_bytes())
        yield server


@pytest.fixture
def skeleton() -> nn.Module:
    with torch.device("meta"):
        return network()


class Vector(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(length))


def on_meta_vectors(length: int) -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(Vector(length), Vector(length))


def weights_asked(server: ObjectServer) -> int:
    return sum(seen.path == "/m/model.safetensors" for seen in server.requests)


def test_load_fills_a_module_from_anywhere(server, model, skeleton):
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        report = load(checkpoint, into=skeleton)

    x = torch.ones(2, 64)
    assert torch.equal(skeleton(x), model(x))
    assert report.tiers["remote"].nbytes == checkpoint.nbytes


def test_load_of_a_cached_object_reads_no_remote_bytes(server, model, skeleton, tmp_path):
    cache = Cache(tmp_path / "cache")
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        load(checkpoint, into=skeleton, cache=cache)
    with torch.device("meta"):
        second = network()
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        opened = weights_asked(server)
        report = load(checkpoint, into=second, cache=cache)

    x = torch.ones(2, 64)
    assert torch.equal(second(x), model(x))
    assert weights_asked(server) == opened
    assert set(report.tiers) == {"disk", "device"}


def test_open_of_a_cached_object_asks_for_its_version_only(server, skeleton, tmp_path):
    cache = Cache(tmp_path / "cache")
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        load(checkpoint, into=skeleton, cache=cache)
    seen = len(server.requests)
    with open_checkpoint(f"{server.url}/m", cache=cache) as checkpoint:
        found = dict(stream(checkpoint))

    asked = [
        (s.method, s.headers.get("range"))
        for s in server.requests[seen:]
        if s.path.endswith("model.safetensors")
    ]
    assert asked == [("HEAD", None)]
    assert found.keys() == skeleton.state_dict().keys()


def test_load_writes_what_it_streams_through_to_the_disk(server, skeleton, tmp_path):
    cache = Cache(tmp_path / "cache")
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        report = load(checkpoint, into=skeleton, cache=cache)

    (entry,) = cache.entries()
    assert report.cache_error is None
    assert entry.location == f"{server.url}/m/model.safetensors"
    assert cache.verify(entry.digest) == entry.nbytes


def test_load_with_a_cache_that_has_no_room_goes_on_without_it(server, model, skeleton, tmp_path):
    cache = Cache(tmp_path / "cache", capacity_bytes=1000)
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        report = load(checkpoint, into=skeleton, cache=cache)

    x = torch.ones(2, 64)
    assert torch.equal(skeleton(x), model(x))
    assert report.cache_error is not None
    assert cache.entries() == []


def test_load_that_is_cut_short_is_retried(server, model, skeleton):
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        server.script("/m/model.safetensors", close_early)
        report = load(checkpoint, into=skeleton)

    x = torch.ones(2, 64)
    assert torch.equal(skeleton(x), model(x))
    assert report.retries == 1


@pytest.mark.parametrize("believed", [True, False], ids=["if-match", "if-match-ignored"])
def test_load_of_a_changed_object_mixes_nothing(server, skeleton, believed):
    path = "/m/model.safetensors"
    old = server.objects[path].data
    options = HttpOptions(parallel=1, part_bytes=4096)  # one part after the other
    with open_checkpoint(f"{server.url}/m", options) as checkpoint:
        parts = len(server.gets)

        def change(handler) -> None:
            """After the first part there is another object of the same length."""
            if len(server.gets) > parts + 1:
                server.put(path, bytes(len(old)), etag='"two"')
            handler.send_object() if believed else ignore_if_match(handler)

        server.always = change
        with pytest.raises(LoadFailedError, match="changed"):
            load(checkpoint, into=skeleton)

    assert len(server.gets) == parts + 2  # one arrived, the next one ended it
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_load_of_a_changed_object_leaves_no_part_of_it(server, skeleton, tmp_path):
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        server.put("/m/model.safetensors", b"other", etag='"two"')
        with pytest.raises(LoadFailedError, match="changed"):
            load(checkpoint, into=skeleton, cache=Cache(tmp_path / "cache"))

    assert list((tmp_path / "cache" / "fills").iterdir()) == []


def test_begin_load_lets_the_module_run_while_it_arrives(server, model, skeleton):
    x = torch.ones(2, 64)
    with open_checkpoint(f"{server.url}/m") as checkpoint, begin_load(checkpoint, skeleton):
        answer = skeleton(x)

    assert torch.equal(answer, model(x))


def test_stream_yields_in_the_asked_order(server, model):
    order = ["2.weight", "0.bias"]
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        found = dict(stream(checkpoint, order=order))

    assert list(found)[:2] == order
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_cache_tells_objects_of_one_path_apart(server, tmp_path):
    cache = Cache(tmp_path / "cache")
    file = tmp_path / "other.safetensors"
    for value in (1.0, 2.0):
        save_file({"w": torch.full((4,), value)}, file)
        server.put("/q/model.safetensors", file.read_bytes())
        with open_checkpoint(f"{server.url}/q/model.safetensors?id={value:g}", cache=cache) as ckpt:
            found = dict(stream(ckpt, cache=cache))

        assert found["w"].tolist() == [value] * 4


def test_cache_that_fails_midway_is_told_and_passed_by(
    server, model, skeleton, tmp_path, monkeypatch
):
    def refuse(*_args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(chunk_writers.os, "pwrite", refuse, raising=False)
    monkeypatch.setattr(chunk_writers.os, "pwritev", refuse, raising=False)
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        report = load(checkpoint, into=skeleton, cache=Cache(tmp_path / "cache"))

    x = torch.ones(2, 64)
    assert torch.equal(skeleton(x), model(x))
    assert report.cache_error is not None


def test_two_loads_of_the_same_shards_in_other_orders_both_end(server, tmp_path):
    index = {"weight_map": {}}
    for number in range(4):
        file = tmp_path / f"{number}.safetensors"
        save_file({f"w{number}": torch.full((64,), float(number))}, file)
        server.put(f"/s/{number}.safetensors", file.read_bytes())
        index["weight_map"][f"w{number}"] = f"{number}.safetensors"
    server.put("/s/model.safetensors.index.json", json.dumps(index).encode())
    names = list(index["weight_map"])

    def read(order: list[str]) -> list[str]:
        with open_checkpoint(f"{server.url}/s") as checkpoint:
            return [
                name for name, _ in stream(checkpoint, order=order, cache=Cache(tmp_path / "c"))
            ]

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(read, (names, names[::-1]), timeout=60))

    assert both == [names, names[::-1]]


# Another process fetches the same object: held here by a fill of our own, which excludes as well.


@pytest.fixture
def followed(server, tmp_path):
    """A checkpoint whose one file somebody else fetches, that fill, and the cache."""
    cache = Cache(tmp_path / "cache")
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        source = checkpoint.source(checkpoint.files[0])
        filling = cache.begin(ObjectIdentity.of(source))
        assert filling is not None
        with filling:
            yield checkpoint, filling, cache


def test_begin_load_behind_another_fetch_returns_and_wait_has_its_time(followed, model, skeleton):
    checkpoint, filling, cache = followed
    loading = begin_load(checkpoint, skeleton, cache=cache)
    with pytest.raises(TimeoutError):
        loading.wait(timeout_s=0.05)
    filling.abandon()
    loading.wait(timeout_s=20)

    x = torch.ones(2, 64)
    assert torch.equal(skeleton(x), model(x))


def test_cancel_ends_a_load_that_waits_for_another_fetch(followed, skeleton):
    checkpoint, _, cache = followed
    loading = begin_load(checkpoint, skeleton, cache=cache)
    with pytest.raises(TimeoutError):
        loading.wait(timeout_s=0.05)
    loading.cancel()
    start_s = time.monotonic()

    with pytest.raises(LoadCancelledError):
        loading.wait()
    assert time.monotonic() - start_s < 10  # not the 10 minutes for which it may follow
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_load_reports_each_tier_that_gave_bytes(server, skeleton, tmp_path):
    local = tmp_path / "local.safetensors"
    big = {"0.weight": torch.ones(CHUNK_BYTES // 4), "1.weight": torch.ones(CHUNK_BYTES // 4)}
    save_file(big, local)
    server.put("/m/model.safetensors", local.read_bytes())
    cache = Cache(tmp_path / "cache")
    with open_checkpoint(f"{server.url}/m") as checkpoint:
        source = checkpoint.source(checkpoint.files[0])
        with begin(cache, ObjectIdentity.of(source)) as filling:  # an attempt that gave up
            data = memoryview(local.read_bytes())
            filling.write(0, data[: CHUNK_BYTES + 1000], lambda: None)
        module = on_meta_vectors(CHUNK_BYTES // 4)
        floors = {"remote": 1e9, "disk": 2e9}
        report = load(checkpoint, into=module, cache=cache, floors=floors)

    disk, remote_tier = report.tiers["disk"], report.tiers["remote"]
    assert disk.nbytes + remote_tier.nbytes == report.nbytes
    assert 0 < disk.nbytes <= CHUNK_BYTES
    assert disk.floor_s == disk.nbytes / 2e9
    assert remote_tier.floor_s == remote_tier.nbytes / 1e9
