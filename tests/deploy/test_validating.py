"""`pilotlight autoscaling validate` with several files: what they come to together."""

import json

import pytest
from typer.testing import CliRunner

from pilotlight_deploy.cli import app
from pilotlight_deploy.sample import write_sample


@pytest.fixture
def together(tmp_path):
    """Writes files and validates them together."""

    def validate(*texts):
        paths = [tmp_path / f"{n}.yaml" for n in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        arguments = ["autoscaling", "validate", *map(str, paths), "--json"]
        return CliRunner().invoke(app, arguments)

    return validate


def keeping(name, replicas, source="/source"):
    scaling = f"autoscaling: {{min_replicas: {replicas}, max_replicas: 9}}"
    return f"name: {name}\nsource: {source}\n{scaling}\n"


def test_validate_takes_model_files_and_a_cluster_file_together(together):
    result = together(keeping("a", 2), keeping("b", 1), "pool: {max_workers: 2}\n")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [each["kind"] for each in found["files"]] == ["model", "model", "cluster"]
    assert found["bytes_not_counted"] == ["a", "b"]


def test_validate_of_one_file_reads_no_settings(together, monkeypatch):
    monkeypatch.setenv("PILOTLIGHT_WORKERS", "x")

    assert together(keeping("a", 2)).exit_code == 0
    assert together(keeping("a", 2), "pool: {max_workers: 2}\n").exit_code == 2


def test_validate_refuses_more_replicas_than_workers(together):
    result = together(keeping("a", 3), "pool: {max_workers: 2}\n")

    assert result.exit_code == 3
    assert "a: min_replicas keeps 3 replicas" in result.stderr
    assert "lower min_replicas to 2, or raise max_workers to 3" in result.stderr


def test_validate_counts_the_bytes_of_sources_that_it_can_read(together, tmp_path, monkeypatch):
    source = tmp_path / "sample"
    write_sample(source, "tiny")
    nbytes = (source / "model.safetensors").stat().st_size
    monkeypatch.setenv("PILOTLIGHT_WORKER_CAPACITY_BYTES", str(round(1.5 * nbytes)))
    texts = [keeping(name, 1, source) for name in ("a", "b")]

    fits = together(*texts, "pool: {max_workers: 2}\n")
    assert fits.exit_code == 0, fits.output
    assert json.loads(fits.stdout)["bytes_not_counted"] == []
    short = together(*texts, "pool: {max_workers: 1}\n")
    assert short.exit_code == 3
    assert "of all models together need 2 workers" in short.stderr
    assert "PILOTLIGHT_WORKER_CAPACITY_BYTES" in short.stderr


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (("pool: {}\n", "pool: {}\n"), "are both cluster files"),
        ((keeping("a", 0), keeping("a", 1)), "are both of model a"),
    ],
)
def test_validate_refuses_two_files_of_one_thing(together, texts, problem):
    result = together(*texts)

    assert result.exit_code == 3
    assert problem in result.stderr
