"""`pilotlight plan` and `show`: real checkpoints, real servers, a platform that tells its past."""

import json
from dataclasses import asdict

import pytest
from support.object_server import ObjectServer
from typer.testing import CliRunner

from pilotlight_autoscaler import Tier
from pilotlight_autoscaler.first_tokens import FirstTokens
from pilotlight_autoscaler.planning.forecast import ENOUGH
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_deploy.cli import app
from pilotlight_deploy.free_port import free_port
from pilotlight_platform.links import Link, Links, StoreLink
from pilotlight_platform.schemas.cold_start import ColdStartStatus
from pilotlight_platform.schemas.model import PlatformStatus, WorkerStatus

NOBODY = f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of the test's own, and no setting from outside."""
    for name in ("URL", "API_KEY", "WORKERS", "POOL", "ARENA_BYTES", "HOME"):
        monkeypatch.delenv(f"PILOTLIGHT_{name}", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def plan(home):
    def run(*arguments, url=NOBODY):
        given = ("plan", *arguments, "--home", home, "--url", url)
        return CliRunner().invoke(app, [str(each) for each in given])

    return run


@pytest.fixture
def model_file(tmp_path, sample):
    def write(text="", source=sample, **autoscaling):
        path = tmp_path / "chat.yaml"
        fields = {"name": "chat", "source": str(source), "autoscaling": autoscaling}
        path.write_text(json.dumps(fields)[:-1] + (f", {text}" if text else "") + "}")
        return path

    return write


def values(result):
    return json.loads(result.stdout)


def measured(home, **stores):
    disk = Link(1e6, 1, "O_DIRECT")
    links = Links(0.0, Link(1e10, 1, "copy"), disk, stores=stores)
    (home / "links.json").write_text(json.dumps(asdict(links)))


def seen(count, seconds, **spans):
    tokens = FirstTokens("r")
    for _ in range(count):
        tokens.add(Tier.HOST, seconds, spans)
    return ColdStartStatus(
        slo=None, predicted={}, actual=dict(tokens.by_tier()), all=tokens.all, slo_met=None
    )


def has_past(platform, *models):
    worker = WorkerStatus(
        worker_id="w", node_id="n", pid=1, threads=1, capacity_bytes=1 << 30, attached=[]
    )
    status = PlatformStatus(version="0", uptime_s=1, workers=[worker], models=list(models))
    platform.on("GET", "/api/status", status.model_dump(mode="json"))


def test_plan_without_anything_measured_says_so(plan, model_file):
    result = plan(model_file(), "--json")
    text = plan(model_file())

    assert result.exit_code == text.exit_code == 0, result.output
    found = values(result)
    assert [each["tier"] for each in found["tiers"]] == ["host", "disk"]
    assert {s["basis"] for each in found["tiers"] for s in each["spans"]} == {"assumed"}
    assert (found["platform"], found["meets"], found["cheapest"]) == (None, None, None)
    assert not any(link["measured"] for link in found["links"].values())
    assert "no platform answers: no timelines" in text.stdout
    assert "assumed: `pilotlight doctor` measures it" in text.stdout


def test_plan_takes_the_links_that_the_doctor_measured(plan, model_file, home):
    measured(home)
    found = values(plan(model_file(), "--json"))
    stage = next(s for s in found["tiers"][1]["spans"] if s["name"] == "stage")

    assert found["links"]["disk"] == {"bytes_per_s": 1e6, "measured": True}
    assert stage["basis"] == "link"
    assert stage["seconds"] == pytest.approx(found["weights"]["nbytes"]["none"] / 1e6)


def test_plan_meets_a_lax_slo_as_it_is(plan, model_file):
    result = plan(model_file(cold_start_slo={"p95": "60s"}))

    assert result.exit_code == 0, result.output
    assert "SLO p95 60.00 s: met by the files as they are; cheapest: from zero" in result.stdout


def test_plan_that_the_files_miss_has_code_8_and_says_what_would_do(plan, model_file, home):
    measured(home)  # a disk of 1 MB/s: the sample takes seconds from there
    file = model_file(cold_start_slo={"p95": "300ms"}, min_replicas=0)
    pool = file.with_name("cluster.yaml")
    pool.write_text("pool: {min_workers: 0, max_workers: 4}\n")
    missed, kept = plan(file, "--cluster", pool, "--json"), plan(file, "--json")

    assert missed.exit_code == 8, missed.output
    assert values(missed)["meets"] is False
    assert values(missed)["cheapest"]["changes"] == {"autoscaling.min_replicas": 1}
    assert values(missed)["starts_worker"]["spans"][1]["name"] == "start_worker"
    assert kept.exit_code == 8, kept.output  # a fixed pool, but nothing keeps pages in memory
    assert values(kept)["meets_while_cached"] is True
    assert values(kept)["cheapest"]["kept"] == "arena"


def test_plan_says_which_tier_each_line_assumes(plan, model_file, home):
    measured(home)
    text = " ".join(plan(model_file(cold_start_slo={"p95": "300ms"})).stdout.split())

    assert "met by the files as they are only while the page cache has the weights" in text
    assert "while cached from zero" in text
    assert "if still cached" in text
    assert "memory, locked" in text
    assert "attached already" in text


def test_plan_that_nothing_meets_names_the_span(plan, model_file):
    result = plan(model_file(cold_start_slo={"p95": "1ms"}))

    assert result.exit_code == 8
    assert "no setting meets it" in result.stdout
    assert "most of it prefill" in result.stdout


def own_past(model_status, sample, baked=None, **spec):
    """A live model of the sample's weights, which has started cold often."""
    nbytes = sum(file.stat().st_size for file in sample.glob("*.safetensors"))
    told = {"nbytes": nbytes, "parameters": nbytes // 4, "dtype": "float32", **(baked or {})}
    record = model_status.record.model_copy(
        update={
            "spec": model_status.record.spec.model_copy(update={"source": str(sample), **spec}),
            "revision": model_status.record.revision.model_copy(update=told),
        }
    )
    return model_status.model_copy(
        update={"record": record, "cold_starts": seen(ENOUGH, 0.123, prefill=0.1)}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "another label"},
        {"dtype": "bfloat16"},
        {"quantization": "int8"},
        {"quantization_rounding": "nearest"},
        {"sparsity": "2:4"},
    ],
)
def test_plan_does_not_take_other_weights_of_the_same_source_for_these(
    plan, model_file, platform, model_status, sample, change
):
    has_past(platform, own_past(model_status, sample, **change))
    found = values(plan(model_file(), "--json", url=platform.url))

    assert found["cold_starts_seen"] == {"own": 0, "others": ENOUGH}


@pytest.mark.parametrize("bytes_then", [{"nbytes": 10**9}, {"parameters": 10**9}])
def test_plan_notices_that_the_source_has_other_weights_by_now(
    plan, model_file, platform, model_status, sample, bytes_then
):
    has_past(platform, own_past(model_status, sample, baked=bytes_then))
    found = values(plan(model_file(), "--json", url=platform.url))

    assert found["cold_starts_seen"] == {"own": 0, "others": ENOUGH}


def test_plan_goes_by_cold_starts_of_these_weights(
    plan, model_file, platform, model_status, sample
):
    has_past(platform, own_past(model_status, sample))
    found = values(plan(model_file(), "--json", url=platform.url))

    assert found["cold_starts_seen"] == {"own": ENOUGH, "others": 0}
    assert found["tiers"][0]["seconds"] == {"p50": 0.123, "p95": 0.123, "p99": 0.123}
    assert (found["tiers"][0]["basis"], found["tiers"][0]["spread"]) == ("timelines", "timelines")


def test_plan_does_not_take_another_models_cold_starts_for_its_own(
    plan, model_file, platform, model_status
):
    other = model_status.model_copy(update={"cold_starts": seen(ENOUGH, 0.123, place=0.077)})
    has_past(platform, other)
    found = values(plan(model_file(), "--json", url=platform.url))
    spans = {span["name"]: span for span in found["tiers"][0]["spans"]}

    assert found["cold_starts_seen"] == {"own": 0, "others": ENOUGH}
    assert (spans["place"]["seconds"], spans["place"]["basis"]) == (0.077, "other models")
    assert found["tiers"][0]["basis"] != "timelines"


def test_plan_of_a_remote_source_tells_the_fetch(plan, model_file, home, sample):
    with ObjectServer() as server:
        for file in sample.iterdir():
            server.put(f"/m/{file.name}", file.read_bytes())
        measured(home, **{server.url: StoreLink(2e6, 1, "8 connections", 0.01, 0.0)})
        result = plan(model_file(source=f"{server.url}/m"), "--json")

    assert result.exit_code == 0, result.output
    found = values(result)
    fetch = next(s for s in found["tiers"][2]["spans"] if s["name"] == "fetch")
    assert found["place"] == server.url
    assert (fetch["basis"], fetch["tier"]) == ("link", "remote")
    assert fetch["seconds"] == pytest.approx(found["weights"]["source_nbytes"] / 2e6)


def test_plan_takes_a_directory_too(plan, sample):
    result = plan(sample)

    assert result.exit_code == 0, result.output
    assert "no cold_start_slo" in result.stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"autoscaling": {"cold_start_slo": {"p95_s": 1}}', "did you mean p95?"),
        ('"autoscaling": {"cold_start_slo": {}}', "name a bound, as in {p95: 300ms}"),
        (
            '"autoscaling": {"cold_start_slo": {"p50": 2, "p95": "1s"}}',
            "p50 (2 s) is above p95 (1 s)",
        ),
        ('"autoscaling": {"cold_start_slo": {"p95": "soon"}}', "'soon' is not a duration"),
    ],
)
def test_plan_of_a_wrong_file_names_the_problem(plan, tmp_path, text, problem):
    path = tmp_path / "wrong.yaml"
    path.write_text(f'{{"name": "chat", "source": "/s", {text}}}')
    result = plan(path)

    assert result.exit_code == 3
    assert problem in result.stderr


def test_plan_of_a_missing_source_is_bad_input(plan, model_file, tmp_path):
    result = plan(model_file(source=tmp_path / "nowhere"))

    assert result.exit_code == 3
    assert str(tmp_path / "nowhere") in result.stderr


def test_plan_of_a_store_that_has_no_such_thing_is_not_found(plan, model_file):
    with ObjectServer() as server:
        result = plan(model_file(source=f"{server.url}/none"))

    assert result.exit_code in {3, 4}
    assert "/none" in result.stderr


def test_plan_with_a_wrong_key_is_refused(plan, model_file, platform):
    error = {"error": {"message": "wrong key", "code": "invalid_api_key"}}
    platform.on("GET", "/api/status", error, 401)

    assert plan(model_file(), url=platform.url).exit_code == 6


def test_show_has_predicted_and_actual_side_by_side(home, platform, model_status):
    status = seen(3, 0.25).model_copy(
        update={"predicted": {Tier.HOST: Quantiles(0.1, 0.2, 0.3)}, "slo_met": False}
    )
    slo = {"slo": {"p95": 0.2}, "slo_met": False}
    status = ColdStartStatus.model_validate({**status.model_dump(), **slo})
    model = model_status.model_copy(update={"cold_starts": status})
    platform.on("GET", "/api/models/chat", model.model_dump(mode="json"))
    result = CliRunner().invoke(app, ["show", "chat", "--url", platform.url])

    assert result.exit_code == 0, result.output
    assert "predicted p50 100 ms, p95 200 ms; actual p50 250 ms, p95 250 ms of 3" in result.stdout
    assert "p95 200 ms: missed" in result.stdout


def test_show_of_an_older_platform_goes_without(platform, model_status):
    told = model_status.model_dump(mode="json")
    del told["cold_starts"], told["record"]["predicted"]
    platform.on("GET", "/api/models/chat", told)
    result = CliRunner().invoke(app, ["show", "chat", "--url", platform.url])

    assert result.exit_code == 0, result.output
    assert "predicted" not in result.stdout
