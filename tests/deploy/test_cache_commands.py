"""`pilotlight cache`: a checkpoint in, looked at, checked, out."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from pilotlight_deploy.caching import opened_cache, pull_checkpoint
from pilotlight_deploy.cli import app
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.render.cache import pulled
from pilotlight_deploy.store_link import place_of
from pilotlight_loader import open_checkpoint
from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_platform.links import Link, Links, StoreLink

WEIGHTS = save({"a": torch.frombuffer(bytearray(os.urandom(20_000)), dtype=torch.uint8)})
OTHERS = save(
    {name: torch.frombuffer(bytearray(os.urandom(10_000)), dtype=torch.uint8) for name in "bc"}
)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def cache(home):
    return Cache(home / "cache")


@pytest.fixture
def invoke(home):
    def call(*words):
        return CliRunner().invoke(app, ["cache", *map(str, words), "--home", str(home)])

    return call


@pytest.fixture
def checkpoint(tmp_path):
    """Two shards, an index, a configuration, and what is none of it."""
    directory = tmp_path / "model"
    directory.mkdir()
    shards = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (directory / "one.safetensors").write_bytes(WEIGHTS)
    (directory / "two.safetensors").write_bytes(OTHERS)
    (directory / "config.json").write_text("{}")
    (directory / "consolidated.safetensors").write_bytes(WEIGHTS)
    (directory / "pytorch_model.bin").write_bytes(WEIGHTS)
    return directory


def values(result):
    assert result.exit_code == ExitCode.OK, result.stderr
    return json.loads(result.stdout)


def names(home):
    return {os.path.basename(entry.location) for entry in Cache(home / "cache").entries()}


def test_cache_pull_takes_weights_and_side_files(invoke, home, checkpoint):
    report = values(invoke("pull", checkpoint, "--json"))
    again = values(invoke("pull", checkpoint, "--json"))

    index = checkpoint / "model.safetensors.index.json"
    assert report["nbytes"] == len(WEIGHTS) + len(OTHERS) + 2 + index.stat().st_size
    assert (report["files"], report["fetched_bytes"]) == (4, report["nbytes"])
    assert (again["files"], again["fetched_bytes"]) == (4, 0)
    assert names(home) == {"one.safetensors", "two.safetensors", "config.json", index.name}


def test_cache_pull_says_what_it_did(invoke, checkpoint):
    result = invoke("pull", checkpoint)

    assert result.stdout.startswith(f"{checkpoint}: 4 files, 40.3 kB, 40.3 kB fetched in")
    assert "pulling one.safetensors: 20.1 kB of 40.3 kB" in result.stderr


def test_cache_pull_of_one_file(invoke, home, checkpoint):
    values(invoke("pull", checkpoint / "consolidated.safetensors", "--json"))

    assert names(home) == {"consolidated.safetensors"}


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("nothing", ExitCode.BAD_INPUT, "no such file"),
        (".", ExitCode.BAD_INPUT, "holds neither model.safetensors nor"),
        ("ftp://host/model", ExitCode.BAD_INPUT, "is not supported"),
    ],
)
def test_cache_pull_of_what_is_no_checkpoint(invoke, tmp_path, name, code, text):
    result = invoke("pull", name if "://" in name else tmp_path / name)

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/x.safetensors", "x.bin"])
def test_cache_pull_refuses_an_index_that_leads_elsewhere(invoke, tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    result = invoke("pull", tmp_path)

    assert result.exit_code == ExitCode.BAD_INPUT
    assert repr(shard) in result.stderr


def test_cache_ls_of_nothing(invoke):
    assert "the cache is empty" in invoke("ls").stdout


def test_cache_ls_tells_what_is_used_and_what_is_partial(invoke, cache, checkpoint):
    values(invoke("pull", checkpoint, "--json"))
    cache.begin(ObjectIdentity("s3://bucket/part", "e", 5000)).abandon()
    one = next(entry for entry in cache.entries() if entry.location.endswith("one.safetensors"))
    with cache.lease(ObjectIdentity(one.location, one.etag, one.nbytes)):
        rows = {line.split()[0]: line for line in invoke("ls").stdout.splitlines()}

    assert rows[one.location].rstrip().endswith("in use")
    assert rows[str(checkpoint / "config.json")].rstrip().endswith("idle")
    assert rows["s3://bucket/part"].rstrip().endswith("0 B of 5 kB, interrupted")


def test_cache_ls_json(invoke, home, checkpoint):
    values(invoke("pull", checkpoint / "one.safetensors", "--json"))
    listed = values(invoke("ls", "--json"))

    assert listed["directory"] == str(home / "cache")
    assert listed["nbytes"] == len(WEIGHTS)
    assert listed["entries"][0]["location"] == str(checkpoint / "one.safetensors")


def test_cache_rm_takes_a_checkpoint(invoke, home, checkpoint):
    values(invoke("pull", checkpoint, "--json"))
    removal = values(invoke("rm", checkpoint, "--json"))

    assert len(removal["removed"]) == 4
    assert names(home) == set()


def test_cache_rm_of_nothing_is_not_found(invoke):
    result = invoke("rm", "s3://bucket/other")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert "`pilotlight cache ls` shows what it has" in result.stderr


def test_cache_rm_refuses_what_is_used(invoke, cache, checkpoint):
    values(invoke("pull", checkpoint / "one.safetensors", "--json"))
    entry = cache.entries()[0]
    with cache.lease(ObjectIdentity(entry.location, entry.etag, entry.nbytes)):
        result = invoke("rm", checkpoint)

    assert result.exit_code == ExitCode.REFUSED
    assert "in use by another process" in result.stderr


def test_cache_prune_to_a_size(invoke, home, checkpoint):
    values(invoke("pull", checkpoint, "--json"))
    removal = values(invoke("prune", "--capacity", "0.0003 MB", "--json"))

    assert removal["freed_bytes"] >= 2 * len(WEIGHTS)
    assert names(home).isdisjoint({"one.safetensors", "two.safetensors"})


def test_cache_prune_by_age_keeps_what_was_used(invoke, home, checkpoint):
    values(invoke("pull", checkpoint, "--json"))

    assert "0 B freed" in invoke("prune", "--unused-days", "1").stdout
    assert len(names(home)) == 4


def test_cache_prune_with_no_size_is_usage(invoke):
    assert invoke("prune", "--capacity", "much").exit_code == ExitCode.USAGE


def test_cache_verify_of_sound_bytes(invoke, checkpoint):
    values(invoke("pull", checkpoint, "--json"))

    assert invoke("verify").stdout.startswith("4 blobs, 40.3 kB in")
    assert values(invoke("verify", checkpoint / "config.json", "--json"))["blobs"] == 1


def test_cache_verify_names_damage_and_removes_it(invoke, home, checkpoint):
    digests = values(invoke("pull", checkpoint, "--json"))["digests"]
    blob = home / "cache" / "blobs" / digests["one.safetensors"]
    blob.chmod(0o600)
    blob.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    result = invoke("verify", "--json")

    assert result.exit_code == ExitCode.BAD_INPUT
    assert [one["digest"] for one in json.loads(result.stdout)["damaged"]] == [blob.name]
    assert result.stderr.splitlines()[-1].startswith(
        f"error: {checkpoint}/one.safetensors: chunk 0 (bytes 0 to {len(WEIGHTS)}) is damaged"
    )
    assert "one.safetensors" not in names(home)


def test_cache_verify_of_nothing_is_not_found(invoke):
    assert invoke("verify", "s3://bucket/other").exit_code == ExitCode.NOT_FOUND


def test_cache_that_cannot_be_written_is_an_unfit_machine(invoke, home):
    home.write_text("a file")
    result = invoke("ls")

    assert result.exit_code == ExitCode.MACHINE_UNFIT
    assert result.stderr.startswith(f"error: {home}/cache: Not a directory")


def test_cache_pull_names_the_floor_of_a_place_that_was_measured(home, checkpoint):
    with opened_cache(home) as cache, open_checkpoint(checkpoint) as opened:
        place = place_of(str(checkpoint), opened)
        store = StoreLink(1000.0, 1, "test", 0.0, 1.0)
        links = Links(1.0, Link(1e9, 1, "test"), Link(1e9, 1, "test"), stores={place: store})
        report = pull_checkpoint(cache, str(checkpoint), lambda *_: None, links)

    assert report.floor_s == report.fetched_bytes / 1000
    assert "floor" in str(pulled(report))
