from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from support.object_server import ObjectServer, answer, redirect
from support.reading import DATA, checkpoint_files, read

from pilotlight_loader.checkpoint import open_checkpoint
from pilotlight_loader.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.hub import HubOptions, HubStore
from pilotlight_loader.sources.local import LocalSource
from pilotlight_loader.sources.location import parse_location

COMMIT = "c0ffee" * 6 + "beef"
OTHER = "0" * 40
API = "/api/models/org/name/revision/main"
RESOLVE = f"/org/name/resolve/{COMMIT}"


@pytest.fixture
def hub(server: ObjectServer) -> ObjectServer:
    """Answers as the hub does for one repository: an API, and files at a commit."""
    publish(server, checkpoint_files())
    return server


def publish(server: ObjectServer, files: dict[str, bytes], commit: str = COMMIT) -> None:
    for name, data in files.items():
        for revision in ("main", commit):
            tag = f'"{commit[:4]}-{name}"'
            path = f"/org/name/resolve/{revision}/{name}"
            server.put(path, data, tag, X_Repo_Commit=commit)
    info = {
        "id": "org/name",
        "modelId": "org/name",
        "sha": commit,
        "siblings": [{"rfilename": name} for name in files],
    }
    for revision in ("main", commit):
        server.put(
            f"/api/models/org/name/revision/{revision}",
            json.dumps(info).encode(),
            Content_Type="application/json",
        )


@pytest.fixture
def options(server, tmp_path) -> HubOptions:
    return HubOptions(endpoint=server.url, token=False, cache_dir=tmp_path / "hub")


@pytest.fixture
def hub_store(options, owned) -> Callable[..., HubStore]:
    def make(location: str = "hf://org/name", **changed: object) -> HubStore:
        settings = {
            "endpoint": options.endpoint,
            "token": options.token,
            "cache_dir": options.cache_dir,
            **changed,
        }
        return owned.enter_context(HubStore(parse_location(location), HubOptions(**settings)))

    return make


def fill_cache(cache: Path, files: dict[str, bytes], commit: str = COMMIT) -> None:
    """What huggingface_hub leaves: blobs, a snapshot of links to them, and a ref."""
    repository = cache / "models--org--name"
    for number, (name, data) in enumerate(files.items()):
        blob = repository / "blobs" / f"{commit[:4]}{number}"
        link = repository / "snapshots" / commit / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_hub_reads_at_the_commit_of_the_branch(hub, hub_store):
    store = hub_store()

    assert store.commit == COMMIT
    assert read(store.open("config.json"), 0, 2) == b"{}"
    assert hub.requests[1].path == f"{RESOLVE}/config.json"


def test_hub_branch_that_moves_mixes_nothing(hub, hub_store):
    store = hub_store()
    publish(hub, {"config.json": b"[]"}, OTHER)

    assert read(store.open("config.json"), 0, 2) == b"{}"


def test_hub_commit_needs_no_question(hub, hub_store):
    hub_store(f"hf://org/name@{COMMIT}").open("config.json")

    assert [seen.path for seen in hub.requests] == [f"{RESOLVE}/config.json"]


def test_hub_reads_in_a_folder(hub, hub_store):
    store = hub_store("hf://org/name/weights")

    assert store.open("two.safetensors").version.nbytes > 0
    assert store.names() == ["two.safetensors"]


def test_hub_names_are_those_of_the_folder_only(hub, hub_store):
    expected = sorted(name for name in checkpoint_files() if "/" not in name)

    assert hub_store().names() == expected
    assert hub_store(f"hf://org/name@{COMMIT}").names() == expected


def test_hub_sends_the_token(hub, hub_store):
    hub_store(token="hf_secret").open("config.json")

    assert [seen.headers["authorization"] for seen in hub.requests] == ["Bearer hf_secret"] * 2


def test_hub_token_does_not_follow_to_the_cdn(hub, hub_store, other_server):
    other_server.put("/cdn/blob", DATA)
    hub.script(f"{RESOLVE}/blob", redirect(f"{other_server.url}/cdn/blob?sig=1"))
    source = hub_store(token="hf_secret").open("blob")

    assert read(source, 1000, 10) == DATA[1000:1010]
    assert all("authorization" not in seen.headers for seen in other_server.requests)


def test_hub_changed_object_is_an_error(hub, hub_store):
    source = hub_store().open("config.json")
    hub.put(f"{RESOLVE}/config.json", b"[]", '"other"')

    with pytest.raises(ObjectChangedError):
        read(source, 0, 2)


def test_hub_reads_a_cached_file_without_asking_for_it(hub, hub_store, options):
    fill_cache(options.cache_dir, {"config.json": b"{}"})
    source = hub_store().open("config.json")

    assert isinstance(source, LocalSource)
    assert read(source, 0, 2) == b"{}"
    assert len(hub.requests) == 1


def test_hub_cached_file_of_another_commit_is_not_used(hub, hub_store, options):
    fill_cache(options.cache_dir, {"config.json": b"[]"}, OTHER)

    assert read(hub_store().open("config.json"), 0, 2) == b"{}"


def test_hub_reads_what_huggingface_hub_cached(hub, hub_store, options):
    # The cache's layout is theirs: let them write it.
    huggingface_hub.hf_hub_download(
        "org/name", "config.json", endpoint=hub.url, cache_dir=options.cache_dir, token=False
    )
    asked = len(hub.requests)
    store = hub_store(offline=True)

    assert read(store.open("config.json"), 0, 2) == b"{}"
    assert store.names() == ["config.json"]
    assert len(hub.requests) == asked


def test_hub_offline_opens_a_cached_checkpoint_with_no_request(server, options):
    fill_cache(options.cache_dir, checkpoint_files())
    offline = HubOptions(endpoint=server.url, cache_dir=options.cache_dir, offline=True)
    with open_checkpoint("hf://org/name", offline) as checkpoint:
        assert checkpoint.tensors.keys() == {"a", "b"}
        assert checkpoint.side_files == ("config.json", "model.safetensors.index.json")
    assert server.requests == []


def test_hub_without_a_network_reads_the_cached_commit(options, owned):
    fill_cache(options.cache_dir, {"config.json": b"{}"})
    with ObjectServer() as gone:
        nowhere = HubOptions(endpoint=gone.url, token=False, cache_dir=options.cache_dir)
    store = owned.enter_context(HubStore(parse_location("hf://org/name"), nowhere))

    assert read(store.open("config.json"), 0, 2) == b"{}"


def test_hub_without_a_network_or_a_cache_is_transient(options):
    with ObjectServer() as gone:
        nowhere = HubOptions(endpoint=gone.url, token=False, cache_dir=options.cache_dir)

    with pytest.raises(TransientReadError, match="cannot be asked"):
        HubStore(parse_location("hf://org/name"), nowhere)


def test_hub_offline_without_the_revision_says_so(hub_store):
    with pytest.raises(ObjectMissingError, match=r"'main' is not in the local cache.*offline"):
        hub_store(offline=True)


def test_hub_offline_without_the_file_says_so(hub_store, options):
    fill_cache(options.cache_dir, {"config.json": b"{}"})

    with pytest.raises(ObjectMissingError, match="not in the local cache"):
        hub_store(offline=True).open("model.safetensors")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "RepoNotFound", AccessDeniedError),
        (404, "RepoNotFound", AccessDeniedError),
        (403, "GatedRepo", AccessDeniedError),
        (404, "RevisionNotFound", ObjectMissingError),
        (400, "", SourceReadError),
        (418, "", SourceReadError),
    ],
)
def test_hub_refusal_has_its_error(hub, hub_store, status, code, kind):
    hub.always = answer(status, X_Error_Code=code)

    with pytest.raises(kind, match=r"^hf://org/name@main: "):
        hub_store()


def test_hub_file_that_is_not_there_is_missing(hub, hub_store):
    with pytest.raises(ObjectMissingError, match=f"hf://org/name@{COMMIT}/absent"):
        hub_store().open("absent")


def test_hub_opens_a_sharded_checkpoint(hub, options):
    with open_checkpoint("hf://org/name@main", options) as checkpoint:
        tensor = checkpoint.tensors["b"]
        data = read(checkpoint.source(checkpoint.file_of(tensor.name)), tensor.start, tensor.nbytes)

    assert data == b"\0\0\x80?" * 3


def test_hub_honours_hf_hub_offline(server, hub_store, options, monkeypatch):
    fill_cache(options.cache_dir, {"config.json": b"{}"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    assert read(hub_store().open("config.json"), 0, 2) == b"{}"
    assert server.requests == []


def test_hub_honours_hf_endpoint(hub, tmp_path):
    # It is read when huggingface_hub is imported: only a process of its own can tell.
    script = (
        "from pilotlight_loader import open_checkpoint\n"
        "with open_checkpoint('hf://org/name') as c: print(sorted(c.tensors))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert answer.stdout == "['a', 'b']\n", answer.stderr
