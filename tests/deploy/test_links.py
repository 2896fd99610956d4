"""Measured links."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from support.object_server import ObjectServer

from pilotlight_deploy.links import measure_disk, measure_memory_all
from pilotlight_deploy.store_link import measure_store
from pilotlight_loader.errors import AccessDeniedError, CheckpointError, SourceReadError
from pilotlight_platform.links import Link, Links, StoreLink, read_links, store_links

MEASURED = Links(1.0, Link(2e9, 100, "copy"), Link(1e9, 100, "O_DIRECT"))
STORE = StoreLink(5e8, 100, "8 connections", 0.01, 1.0)


def test_disk_is_measured_and_nothing_left(tmp_path):
    link = measure_disk(tmp_path)

    assert link.bytes_per_s > 0
    assert link.measured_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_links_are_stored_whole(tmp_path):
    stored = store_links(MEASURED, tmp_path)

    assert json.loads((tmp_path / "links.json").read_text()) == asdict(stored) == asdict(MEASURED)
    assert read_links(tmp_path) == MEASURED
    assert [file.name for file in tmp_path.iterdir()] == ["links.json"]


def test_links_keep_the_stores_measured_before(tmp_path):
    faster = replace(STORE, bytes_per_s=9e8)
    store_links(replace(MEASURED, stores={"s3://one": STORE, "s3://two": STORE}), tmp_path)

    stored = store_links(replace(MEASURED, stores={"s3://two": faster}), tmp_path)

    assert stored.stores == {"s3://one": STORE, "s3://two": faster}
    assert read_links(tmp_path) == stored


@pytest.mark.parametrize("text", ["", "[]", "{", '{"memory": 1}', json.dumps(asdict(MEASURED))])
def test_links_that_cannot_be_used_are_none(tmp_path, text):
    (tmp_path / "links.json").write_text(text.replace("1000000000.0", "0"))

    assert read_links(tmp_path) is None


def test_links_of_an_older_version_are_read(tmp_path):
    old = {k: v for k, v in asdict(MEASURED).items() if k in ("measured_at_s", "memory", "disk")}
    (tmp_path / "links.json").write_text(json.dumps(old))

    assert read_links(tmp_path) == MEASURED


def test_links_give_floors_by_tier():
    links = replace(MEASURED, stores={"s3://one": STORE}, device=Link(5e10, 0, "pinned"))
    two = replace(links, stores={"s3://one": STORE, "s3://two": STORE})

    assert links.floors() == {"host": 2e9, "disk": 1e9, "remote": 5e8, "device": 5e10}
    assert "remote" not in two.floors()
    assert two.floors("s3://two")["remote"] == 5e8


def test_memory_of_all_cores_is_measured():
    link = measure_memory_all()

    assert link.bytes_per_s > 0
    assert link.how.startswith("copy on ")


def weights(directory, nbytes=3 << 20):
    save_file({"a": torch.zeros(nbytes, dtype=torch.uint8)}, directory / "model.safetensors")
    return (directory / "model.safetensors").read_bytes()


def test_store_is_measured_by_its_host_and_each_byte_once(tmp_path):
    with ObjectServer() as server:
        data = weights(tmp_path)
        server.put("/secret/model.safetensors", data)
        place, link = measure_store(f"{server.url.replace('//', '//user:word@')}/secret")

    assert place == server.url
    assert link.measured_bytes == len(data)
    assert link.bytes_per_s > 0
    assert 0 < link.first_byte_s < 10


def test_store_that_gives_too_little_in_time_is_an_error(tmp_path):
    with ObjectServer() as server:
        server.put("/m/model.safetensors", weights(tmp_path))

        def stall_large(handler):
            start, end = handler.asked_range(1 << 40)
            if end - start == 256 << 10:
                server.stopping.wait(30)
            handler.send_object()

        server.always = stall_large
        with pytest.raises(SourceReadError, match=r"in 0\.3 s"):
            measure_store(f"{server.url}/m", limit_s=0.3)


def test_store_that_refuses_the_weights_says_why(tmp_path):
    with ObjectServer() as server:
        server.put("/m/model.safetensors", weights(tmp_path))

        def refuse_large(handler):
            start, end = handler.asked_range(1 << 40)
            if start > 0 or end - start == 256 << 10:
                handler.send_status(403)
            else:
                handler.send_object()

        server.always = refuse_large
        with pytest.raises(AccessDeniedError):
            measure_store(f"{server.url}/m")


def test_store_without_the_checkpoint_is_an_error():
    with ObjectServer() as server, pytest.raises(CheckpointError):
        measure_store(f"{server.url}/nothing")


def test_store_on_a_disk_goes_by_its_file_system(tmp_path):
    data = weights(tmp_path)

    place, link = measure_store(str(tmp_path))

    assert str(tmp_path).startswith(place.removeprefix("file://"))
    assert link.measured_bytes == len(data)
