"""Processes that die, models that change under load, and the platform's own end."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.running_platform import RunningPlatform, kill_actor, sse_events, workers_ready
from support.waiting import until

from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings

pytestmark = pytest.mark.system

_LONG: dict[str, Any] = {"prompt": "def", "max_tokens": 400, "ignore_eos": True, "stream": True}


def test_failure_worker_killed_midstream_ends_that_stream_with_an_error(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("fragile", sample, idle_timeout_s=30)
    body = {"model": "fragile", **_LONG}
    with platform.http.stream("POST", "/v1/completions", json=body) as answer:
        events = sse_events(answer)
        next(events)
        line = platform.http.get(f"/api/requests/{answer.headers['x-request-id']}").json()
        workers = platform.http.get("/api/status").json()["workers"]
        pid = next(w["pid"] for w in workers if w["worker_id"] == line["worker_id"])
        os.kill(pid, signal.SIGKILL)
        rest = list(events)

    assert rest[-1]["error"]["code"] == "worker_lost"
    again = platform.complete("fragile")
    assert again.status_code == 200
    until(lambda: workers_ready(platform) == 2, 60)


def test_failure_scheduler_killed_requests_go_on(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("steady", sample, idle_timeout_s=60)
    platform.complete("steady")
    kill_actor("Scheduler")
    warm = platform.complete("steady")

    assert warm.status_code == 200
    until(lambda: platform.http.get("/api/status").status_code == 200, 60)
    until(lambda: workers_ready(platform) == 2, 60)
    assert platform.complete("steady").status_code == 200


def test_failure_gateway_killed_new_requests_wait_for_the_next(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("kept", sample, idle_timeout_s=60)
    kill_actor("Gateway")
    # A connection of its own: one that the killed gateway had accepted is lost with it.
    answer = httpx.post(
        f"{platform.url}/v1/completions",
        json={"model": "kept", "prompt": "def main", "max_tokens": 4},
        timeout=60.0,
        trust_env=False,
    )

    assert answer.status_code == 200, answer.text


def test_delete_lets_a_running_stream_finish(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("leaving", sample, idle_timeout_s=60)
    body = {"model": "leaving", **_LONG}
    with platform.http.stream("POST", "/v1/completions", json=body) as answer:
        events = sse_events(answer)
        next(events)
        deleted = platform.http.delete("/api/models/leaving")
        rest = list(events)

    assert deleted.status_code == 204
    assert rest[-1] == "[DONE]"
    assert platform.complete("leaving").status_code == 404


def test_delete_does_not_wait_for_the_deploy_of_another_model(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("unwanted", sample)
    spec = {"name": "slow", "source": str(sample), "quantization": "int8"}  # baked by nobody else
    headers = {"accept": "application/x-ndjson"}
    with platform.http.stream("PUT", "/api/models/slow", json=spec, headers=headers) as answer:
        lines = answer.iter_lines()
        next(lines)
        deleted = platform.http.delete("/api/models/unwanted")
        still_deploying = platform.http.get("/api/models/slow").status_code == 404
        last = list(lines)[-1]

    assert deleted.status_code == 204
    assert still_deploying
    assert '"live"' in last


def test_redeploy_under_load_loses_no_request(
    platform: RunningPlatform, sample: Path, tmp_path: Path
) -> None:
    platform.deploy("moving", sample, idle_timeout_s=60)
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(platform.complete, "moving", max_tokens=50) for _ in range(12)]
        platform.http.put(
            "/api/models/moving",
            json={"name": "moving", "source": str(sample), "dtype": "bfloat16"},
        ).raise_for_status()
        work += [threads.submit(platform.complete, "moving") for _ in range(4)]
        answers = [future.result() for future in work]

    assert [answer.status_code for answer in answers] == [200] * 16
    last = platform.timeline(answers[-1])["revision_id"]
    assert last == platform.http.get("/api/models/moving").json()["record"]["revision"]["id"]


def test_client_that_goes_away_frees_its_slot(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("fleeting", sample, idle_timeout_s=60, max_ongoing_requests=1)
    body = {"model": "fleeting", **_LONG, "max_tokens": 100_000}
    with platform.http.stream("POST", "/v1/completions", json={**body, "max_tokens": 500}) as gone:
        next(sse_events(gone))

    assert platform.complete("fleeting").status_code == 200

    def ongoing() -> list[int]:
        status = platform.http.get("/api/models/fleeting").json()
        return [replica["ongoing"] for replica in status["replicas"]]

    until(lambda: ongoing() == [0])  # a worker reports a moment later


def test_deploy_whose_client_goes_away_leaves_nothing(
    platform: RunningPlatform, sample: Path
) -> None:
    kept = {path.name for path in platform.settings.checkpoints_dir.glob("*")}
    spec = {"name": "never", "source": str(sample), "dtype": "float16"}
    headers = {"accept": "application/x-ndjson"}
    with platform.http.stream("PUT", "/api/models/never", json=spec, headers=headers) as answer:
        lines = answer.iter_lines()
        while '"load"' not in next(lines):
            pass

    until(lambda: {p.name for p in platform.settings.checkpoints_dir.glob("*")} == kept)
    assert platform.http.get("/api/models/never").status_code == 404
    platform.deploy("next", sample)


def test_deploy_whose_client_goes_away_while_it_is_prepared_is_live_and_whole(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("hasty", sample)
    spec = {"name": "hasty", "source": str(sample), "dtype": "bfloat16"}
    headers = {"accept": "application/x-ndjson"}
    with platform.http.stream("PUT", "/api/models/hasty", json=spec, headers=headers) as answer:
        lines = answer.iter_lines()
        while '"prepare"' not in next(lines):
            pass

    platform.deploy("later", sample)  # its end tidies up once more
    record = platform.http.get("/api/models/hasty").json()["record"]
    assert (Path(record["revision"]["path"]) / "model.safetensors").is_file()
    assert platform.complete("hasty").status_code == 200


def test_two_deploys_of_one_model_at_once_take_turns(
    platform: RunningPlatform, sample: Path
) -> None:
    dtypes = ["float32", "bfloat16"]

    def deploy(dtype: str) -> int:
        spec = {"name": "twice", "source": str(sample), "dtype": dtype}
        return platform.http.put("/api/models/twice", json=spec).status_code

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(deploy, dtypes)) == [200, 200]
    assert platform.complete("twice").status_code == 200


def test_platform_comes_back_with_its_models_at_zero(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("lasting", sample, idle_timeout_s=600)
    before = platform.complete("lasting", temperature=0).json()["choices"]
    assert stop_platform(platform.settings.home)
    left = [
        process.info["name"]
        for process in psutil.process_iter(["name", "status"])
        if process.info["name"] in {"raylet", "gcs_server", "redis-server"}
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    start_detached(platform.settings, lambda message: None)

    assert left == []
    assert platform.state("lasting") == "zero"
    assert platform.complete("lasting", temperature=0).json()["choices"] == before


def test_second_platform_of_the_same_home_is_refused(platform: RunningPlatform) -> None:
    with pytest.raises(MachineError, match="is running at http"):
        start_detached(platform.settings, lambda message: None)


def test_platform_beside_a_running_ray_is_refused(
    platform: RunningPlatform, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, port=platform.settings.port + 1)
    with pytest.raises(MachineError, match="Ray is running on this machine already"):
        start_detached(settings, lambda message: None)


def test_platform_on_a_taken_port_is_refused(platform: RunningPlatform, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=platform.settings.port)
    with pytest.raises(MachineError, match="choose another with --port"):
        start_detached(settings, lambda message: None)
