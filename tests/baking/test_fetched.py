"""A source behind HTTP: fetched once, baked like a local one, refused by its own name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.object_server import ObjectServer

from pilotlight_loader import Cache
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.errors import SourceError
from pilotlight_platform.schemas.model import BakeDone, ModelSpec


@pytest.fixture
def server(sample: Path) -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        for file in sample.iterdir():
            server.put(f"/models/tiny/{file.name}", file.read_bytes())
        yield server


def bake(source: str, directory: Path, phases: list[str] | None = None) -> BakeDone:
    order = BakeOrder(
        spec=ModelSpec(name="m", source=source),
        checkpoints_dir=directory / "checkpoints",
        cache_dir=directory / "cache",
    )
    seen = [] if phases is None else phases
    return bake_revision(order, lambda phase, *_: seen.append(phase))


def test_fetched_source_bakes_to_the_same_revision_as_the_local_one(
    server: ObjectServer, sample: Path, tmp_path: Path
) -> None:
    # Plain HTTP lists no files: of side files, those of known names are fetched.
    copy = shutil.copytree(sample, tmp_path / "copy", ignore=shutil.ignore_patterns("pilotlight-*"))
    phases: list[str] = []
    remote = bake(f"{server.url}/models/tiny", tmp_path / "a", phases)
    local = bake(str(copy), tmp_path / "b")

    assert remote.revision.source_digest == local.revision.source_digest
    assert list(dict.fromkeys(phases)) == ["fetch", "check", "load", "bake", "verify"]
    left = [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()]
    assert left == [Path(remote.revision.path).name]


def test_fetched_source_is_not_fetched_again(server: ObjectServer, tmp_path: Path) -> None:
    bake(f"{server.url}/models/tiny", tmp_path)
    weights = "/models/tiny/model.safetensors"
    before = len([seen for seen in server.requests if seen.path == weights])
    again = bake(f"{server.url}/models/tiny", tmp_path)

    after = [seen for seen in server.requests if seen.path == weights][before:]
    assert again.reused
    assert (
        sum(_asked_bytes(seen.headers.get("range", "")) for seen in after) < 200_000
    )  # the header alone


def test_fetched_source_that_is_broken_is_named_by_its_address(
    server: ObjectServer, tmp_path: Path
) -> None:
    server.put("/models/tiny/config.json", b'{"model_type": "unheard-of"}')

    with pytest.raises(SourceError, match=rf"^{server.url}/models/tiny/config.json: .*unheard-of"):
        bake(f"{server.url}/models/tiny", tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nothing", "holds neither"), ("tiny/model.safetensors", "name the directory")],
)
def test_fetched_source_that_is_no_checkpoint_is_refused(
    server: ObjectServer, tmp_path: Path, path: str, reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        bake(f"{server.url}/models/{path}", tmp_path)


def test_fetched_source_stays_in_the_cache(server: ObjectServer, tmp_path: Path) -> None:
    bake(f"{server.url}/models/tiny", tmp_path)

    names = {Path(entry.location).name for entry in Cache(tmp_path / "cache").entries()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names


def _asked_bytes(header: str) -> int:
    start, _, end = header.removeprefix("bytes=").partition("-")
    return int(end) - int(start) + 1 if end else 0
