"""Model files: what is read, and how each problem is told."""

from pathlib import Path

import pytest

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import ModelFileError, read_model_spec, read_target, schema


def write(folder: Path, text: str) -> Path:
    path = folder / "model.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    """The problems of a model file, without the folder's name."""
    with pytest.raises(ModelFileError) as caught:
        read_model_spec(write(folder, text))
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_reads_a_whole_file(tmp_path):
    text = "version: 1\nname: chat\nsource: weights\nautoscaling:\n  idle_timeout_s: 10m\n"
    spec = read_model_spec(write(tmp_path, text))

    assert spec.name == "chat"
    assert spec.source == str(tmp_path / "weights")
    assert spec.autoscaling.idle_timeout_s == 600.0


def test_name_and_source_of_the_call_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, "name: chat\nsource: weights\n")

    spec = read_model_spec(file, source="other", name="better")

    assert (spec.name, spec.source) == ("better", str(tmp_path / "other"))


def test_source_with_a_scheme_is_left_alone(tmp_path):
    spec = read_model_spec(write(tmp_path, "name: a\nsource: s3://bucket/a\n"))

    assert spec.source == "s3://bucket/a"


def test_directory_gives_its_name(tmp_path):
    directory = tmp_path / "Qwen2.5 (0.5B)"
    directory.mkdir()

    spec = read_target(directory, file=None, name=None)

    assert (spec.name, spec.source) == ("qwen2.5-0.5b", str(directory))


def test_target_may_be_the_model_file(tmp_path):
    assert read_target(write(tmp_path, "name: a\nsource: b"), file=None, name="c").name == "c"


def test_nothing_to_deploy_is_told():
    with pytest.raises(CliError, match="name a checkpoint directory"):
        read_target(None, file=None, name=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a\nsource: b\nautoscaling:\n  max_replica: 2\n",
            "model.yaml:4: autoscaling.max_replica: unknown key; did you mean max_replicas?",
        ),
        (
            "name: a\nsource: b\nautoscaling: {idle-timeout-s: 3}\n",
            "model.yaml:3: autoscaling.idle-timeout-s: unknown key; did you mean idle_timeout_s?",
        ),
        (
            "name: a\nsource: b\nmax_replicas: 2\n",
            "model.yaml:3: max_replicas: unknown key here; autoscaling.max_replicas is the one",
        ),
        (
            "name: a\nsource: b\nquux: 2\n",
            "model.yaml:3: quux: unknown key; there are version, name, source, revision, task, "
            "dtype, quantization, quantization_uniform, quantization_rounding, quantization_text, "
            "quantization_skip, sparsity, max_context_tokens, autoscaling",
        ),
        (
            "name: a\nsource: b\nautoscaling: {initial_replicas: 1}\n",
            "model.yaml:3: autoscaling.initial_replicas: unknown key; with Ray it becomes a floor "
            "that keeps a model from zero (#62682); min_replicas is the floor, and "
            "prewarm.on_deploy starts one replica at a deploy",
        ),
        (
            "name: a\nsource: b\nautoscaling:\n  placement: {weight_cache: [nvme]}\n",
            "model.yaml:4: autoscaling.placement.weight_cache: unknown key; PILOTLIGHT_ARENA_BYTES "
            "is memory that keeps the weights of all models; the disk has them anyway",
        ),
        (
            "name: a\nsource: b\nautoscaling: {target_num_ongoing_requests_per_replica: 2}\n",
            "model.yaml:3: autoscaling.target_num_ongoing_requests_per_replica: unknown key; "
            "target_ongoing_requests is the name here",
        ),
        (
            "name: a\nsource: b\nmaxReplicas: 2\n",
            "model.yaml:3: maxReplicas: unknown key here; autoscaling.max_replicas is the one",
        ),
        (
            "name: a\nsource: b\nmodel: c\n",
            "model.yaml:3: model: unknown key; name is the name here",
        ),
        (
            "name: a\nsource: b\nautoscaling:\n  prewarm: {model: c}\n",
            "model.yaml:4: autoscaling.prewarm.model: unknown key; there are enabled, "
            "min_observations, min_hit_rate, on_deploy",
        ),
        ("source: b\n", "model.yaml: name: is missing"),
        (
            "name: 1.5\nsource: b\n",
            "model.yaml:1: name: must be text: put it in quotes (got 1.5)",
        ),
        (
            "name: A b\nsource: b\n",
            "model.yaml:1: name: must be 1 to 63 lower case letters, digits, '.', '_' or '-', "
            "the first a letter or digit (got 'A b')",
        ),
        (
            "name: a\nsource: b\nautoscaling: 3\n",
            "model.yaml:3: autoscaling: must be a mapping of keys to values (got 3)",
        ),
        (
            "name: a\nsource: b\nautoscaling:\n  idle_timeout_s: 10 minutes\n",
            "model.yaml:4: autoscaling.idle_timeout_s: '10 minutes' is not a duration: write "
            "seconds (90) or '500ms', '90s', '10m', '2h'",
        ),
        (
            "name: a\nsource: b\nautoscaling:\n  min_replicas: 3\n",
            "model.yaml:3: autoscaling: min_replicas (3) is above max_replicas (1)",
        ),
        (
            "name: a\nsource: b\nautoscaling:\n  min_replicas: -1\n",
            "model.yaml:4: autoscaling.min_replicas: must be greater than or equal to 0 (got -1)",
        ),
        (
            "name: a\nsource: b\nversion: 2\n",
            "model.yaml:3: version: must be 1 (got 2)",
        ),
        ("name: a\nname: b\n", "model.yaml:2: name: stands in line 1 already"),
        (
            "autoscaling:\n  min_replicas: 0\n  min_replicas: 0\n",
            "model.yaml:3: autoscaling.min_replicas: stands in line 2 already",
        ),
        ("- a\n", "model.yaml: must be a mapping of keys to values, such as name: x"),
        ("", "model.yaml: must be a mapping of keys to values, such as name: x"),
        ("7: x\n", "model.yaml: 7: keys must be text"),
        (
            "name: &n a\nsource: *n\n",
            "model.yaml:2:9: aliases (*name) are not supported",
        ),
        (
            "name: !!python/object:os.system x\n",
            "model.yaml:1:7: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
    ],
)
def test_problem_is_one_line_with_its_place(tmp_path, text, expected):
    assert problems(tmp_path, text) == [expected]


def test_every_problem_is_told_at_once(tmp_path):
    assert len(problems(tmp_path, "nam: a\nautoscaling: {max_replicas: x}\n")) == 4


def test_syntax_error_names_line_and_column(tmp_path):
    (problem,) = problems(tmp_path, "name: a\nsource: [b\n")

    assert problem.startswith("model.yaml:3:1: ")


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"# " + b"x" * (64 << 10), b"a: \x00", b"[" * 20_000, b"revision: 2024-13-01"],
    ids=["not UTF-8", "too large", "control character", "too deep", "no such date"],
)
def test_strange_files_are_refused(tmp_path, data):
    path = tmp_path / "model.yaml"
    path.write_bytes(data)

    with pytest.raises(ModelFileError) as caught:
        read_model_spec(path)
    assert len(caught.value.problems) == 1


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="No such file"):
        read_model_spec(tmp_path / "none.yaml")


def test_schema_forbids_unknown_keys():
    assert schema()["additionalProperties"] is False
    assert set(schema()["required"]) == {"name", "source"}


def test_quantization_is_read_with_its_text_beside_the_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(
        "name: a\nsource: b\nquantization: int4\nquantization_rounding: gptq\n"
        "quantization_text: ./book.txt\nquantization_skip: [lm_head]\n"
    )
    spec = read_model_spec(path)

    assert (spec.quantization, spec.quantization_skip) == ("int4", ("lm_head",))
    assert spec.quantization_text == str(tmp_path / "book.txt")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("quantization: int3", "quantization: must be 'none', 'int8', 'int4' or 'fp8'"),
        ("quantisation: int4", "quantisation: unknown key; did you mean quantization?"),
        ("quantization_rounding: gptq", "quantization_rounding: nothing is quantized"),
        ("quantization_text: a.txt", "quantization_text: only gptq reads one"),
        ("quantization_skip: [a]", "quantization_skip: nothing is quantized"),
        ("quantization_uniform: true", "quantization_uniform: nothing is quantized"),
        ("quantization: int8\nquantization_uniform: true", "quantization_uniform: int8 has the"),
    ],
)
def test_quantization_wishes_that_nothing_heeds_are_refused(tmp_path, line, problem):
    (found,) = problems(tmp_path, f"name: a\nsource: b\n{line}\n")

    assert problem in found
