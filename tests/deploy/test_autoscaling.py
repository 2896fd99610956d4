"""`pilotlight autoscaling` and `explain`, against files and a real HTTP server."""

import json

import pytest
from typer.testing import CliRunner

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_deploy.cli import app
from pilotlight_deploy.free_port import free_port
from pilotlight_platform.schemas.decision import (
    DecisionRecord,
    Explanation,
    PoolStatus,
    ScalingStatus,
)

MODEL = """\
name: chat
source: /source
autoscaling:
  max_replicas: 3
  schedule:
    - cron: "0 8 * * mon-fri"
      duration_s: 10h
      min_replicas: 1
      timezone: Europe/London
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return path

    return write


def status(**config):
    return ScalingStatus(
        model="chat",
        config=AutoscalingConfig(**config),
        target_ongoing_requests=5.6,
        cold_start_s=0.25,
        cold_starts_s={"host": 0.25},
        burst=1.5,
        service_s=0.75,
        break_even_s=11.5,
        keep_s=40.0,
        prewarm=[{"load_age_s": 3599.0, "drop_age_s": 3700.0}],
        gaps=12,
        hit_rate=0.9,
        floor=0,
        schedule_changes_at_s=None,
    )


@pytest.mark.parametrize(
    ("text", "kind"), [(MODEL, "model"), ("pool: {min_workers: 0, max_workers: 4}\n", "cluster")]
)
def test_validate_takes_both_kinds_of_file(file, text, kind):
    result = run("autoscaling", "validate", file(text), "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == kind


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pool:\n  min_worker: 1\n", ":2: pool.min_worker: unknown key; did you mean min_workers?"),
        ("pool: {min_workers: 9, max_workers: 4}\n", "min_workers (9) is above max_workers (4)"),
        ("pool: {idle_timeout_s: soon}\n", "'soon' is not a duration"),
        ("version: 2\npool: {}\n", ":1: version: must be 1"),
        (
            MODEL.replace("timezone:", "time_zone:"),
            "time_zone: unknown key; did you mean timezone?",
        ),
        (MODEL.replace("Europe/London", "London"), "'London' is no time zone"),
        (MODEL.replace("0 8 * *", "0 25 * *"), "'25' is no hour: it goes from 0 to 23"),
    ],
)
def test_validate_names_the_place_and_the_remedy(file, text, problem):
    result = run("autoscaling", "validate", file(text))

    assert result.exit_code == 3
    assert problem in result.stderr


@pytest.mark.parametrize("command", ["validate", "show", "set"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 1\n", "is neither a model file (name:, source:, autoscaling:) nor a cluster"),
        ("version: 1\npol: {}\n", "pol is no key of either; did you mean pool?"),
        (MODEL + "pool: {}\n", "pool: is of a cluster file, autoscaling: of a model file"),
        ("pool: {}\ndtype: auto\n", "pool: is of a cluster file, dtype: of a model file"),
    ],
)
def test_autoscaling_refuses_a_file_that_is_of_neither_kind_or_of_both(
    platform, file, command, text, problem
):
    arguments = () if command == "validate" else ("--url", platform.url)
    result = run("autoscaling", command, file(text), *arguments)

    assert result.exit_code == 3
    assert problem in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert platform.seen == []


def test_autoscaling_takes_a_file_without_a_name_for_the_model_file_that_it_is(file):
    result = run("autoscaling", "validate", file("source: /source\n"))

    assert result.exit_code == 3
    assert "name: is missing" in result.stderr


def test_show_without_a_platform_fills_the_defaults_in(file):
    url = f"http://127.0.0.1:{free_port()}"
    result = run("autoscaling", "show", file(MODEL), "--url", url)

    assert result.exit_code == 0, result.output
    assert "nothing is measured yet" in result.stdout
    assert "keep_alive.cold_start_weight  30.0" in result.stdout


def test_show_has_what_the_platform_measured(platform, file):
    platform.on("GET", "/api/models/chat/autoscaling", status().model_dump(mode="json"))
    result = run("autoscaling", "show", file(MODEL), "--url", platform.url)

    assert result.exit_code == 0, result.output
    for text in ("250 ms", "750 ms", "11.50 s", "40.00 s", "the platform has other settings"):
        assert text in result.stdout


def test_set_sends_the_block_and_nothing_else(platform, file):
    answer = status(max_replicas=3).model_dump(mode="json")
    platform.on("PUT", "/api/models/chat/autoscaling", answer)
    result = run("autoscaling", "set", file(MODEL), "--url", platform.url)

    assert result.exit_code == 0, result.output
    sent = json.loads(platform.seen[0][3])
    assert sent["max_replicas"] == 3
    assert AutoscalingConfig.model_validate(sent).schedule[0].timezone == "Europe/London"


POOL = "pool: {min_workers: 1, max_workers: 3}\n"


def pool_status(**config):
    return PoolStatus(
        config=PoolConfig(**config), fixed=False, most_workers=4, workers=2, target=3
    ).model_dump(mode="json")


def test_set_gives_a_running_pool_other_bounds(platform, file):
    platform.on("PUT", "/api/pool", pool_status(min_workers=1, max_workers=3))
    result = run("autoscaling", "set", file(POOL), "--url", platform.url)

    assert result.exit_code == 0, result.output
    sent = PoolConfig.model_validate_json(platform.seen[0][3])
    assert sent == PoolConfig(min_workers=1, max_workers=3)
    assert "2, 3 wanted" in result.stdout


def test_show_of_a_cluster_file_says_what_the_platform_has(platform, file):
    platform.on("GET", "/api/pool", pool_status(min_workers=0, max_workers=4))
    result = run("autoscaling", "show", file(POOL), "--url", platform.url)

    assert result.exit_code == 0, result.output
    assert "2, 3 wanted" in result.stdout
    assert "the platform has other settings" in result.stdout


def test_show_of_a_cluster_file_needs_no_platform(file):
    url = f"http://127.0.0.1:{free_port()}"
    result = run("autoscaling", "show", file(POOL), "--url", url, "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["live"] is None


def test_explain_prints_the_decisions_and_how_it_stands(platform):
    record = {"model": "chat", "rule": "holds", "reason": "would start above 5.6, saw 3"}
    explanation = Explanation(
        model="chat",
        now=DecisionRecord(at_s=2.0, action="hold", **record),
        decisions=[DecisionRecord(at_s=1.0, action="attach", worker_id="w1", **record)],
    )
    platform.on("GET", "/api/models/chat/decisions", explanation.model_dump(mode="json"))
    result = run("explain", "chat", "--since", "10m", "--url", platform.url)

    assert result.exit_code == 0, result.output
    assert "attach" in result.stdout
    assert "(on w1)" in result.stdout
    assert "would start above 5.6, saw 3" in result.stdout


def test_explain_refuses_a_since_that_is_no_duration():
    result = run("explain", "chat", "--since", "yesterday")

    assert result.exit_code == 2
    assert "'yesterday' is not a duration" in result.stderr


def test_explain_of_the_pool_prints_its_sizes(platform):
    record = {"model": "", "rule": "pool", "reason": "1 in use + 1 spare; would be 3 with 1 more"}
    explanation = Explanation(
        model="",
        now=DecisionRecord(at_s=2.0, action="hold", **record),
        decisions=[DecisionRecord(at_s=1.0, action="resize", **record)],
    )
    platform.on("GET", "/api/pool/decisions", explanation.model_dump(mode="json"))
    result = run("explain", "--pool", "--since", "10m", "--url", platform.url)

    assert result.exit_code == 0, result.output
    assert "resize" in result.stdout
    assert "would be 3 with 1 more" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("chat", "--pool")])
def test_explain_wants_a_model_or_the_pool(arguments):
    result = run("explain", *arguments)

    assert result.exit_code == 2
    assert "name a model, or give --pool" in result.stderr
