"""Settings changed in place, and decisions explained, on a running platform."""

from pathlib import Path
from typing import Any

import pytest
from support.running_platform import RunningPlatform, sse_events
from support.waiting import until

pytestmark = pytest.mark.system


def decisions(platform: RunningPlatform, model: str) -> dict[str, Any]:
    answer = platform.http.get(f"/api/models/{model}/decisions")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_explain_tells_the_life_of_a_replica(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("told", sample, idle_timeout_s=1)
    platform.complete("told")
    until(lambda: platform.state("told") == "zero")
    found = decisions(platform, "told")

    rules = [(each["action"], each["rule"]) for each in found["decisions"]]
    assert ("attach", "from_zero") in rules
    assert ("detach", "idle") in rules
    assert found["now"]["rule"] == "rest"
    assert "would start at the first request" in found["now"]["reason"]
    assert 0 < platform.http.get("/api/models/told/autoscaling").json()["service_s"] < 60


def test_explain_tells_why_there_are_so_many_workers(platform: RunningPlatform) -> None:
    found = platform.http.get("/api/pool/decisions").json()

    assert found["decisions"][-1]["action"] == "resize"
    assert found["now"]["rule"] == "pool"
    assert "in use" in found["now"]["reason"]


def test_settings_change_in_place_under_a_running_stream(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("tuned", sample, idle_timeout_s=600)
    body = {"model": "tuned", "prompt": "def", "max_tokens": 150, "ignore_eos": True}
    with platform.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        events = sse_events(answer)
        next(events)
        before = platform.http.get("/api/models/tuned").json()
        changed = platform.http.put("/api/models/tuned/autoscaling", json={"idle_timeout_s": "1s"})
        after = platform.http.get("/api/models/tuned").json()
        rest = list(events)

    assert changed.status_code == 200, changed.text
    assert changed.json()["keep_s"] == 1.0
    assert rest[-1] == "[DONE]"
    assert [r["worker_id"] for r in after["replicas"]] == [
        r["worker_id"] for r in before["replicas"]
    ]
    assert [r["phase"] for r in after["replicas"]] == ["ready"]
    assert after["record"]["revision"] == before["record"]["revision"]
    until(lambda: platform.state("tuned") == "zero")  # the new timeout holds


def test_settings_that_are_wrong_are_refused_and_change_nothing(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("strict", sample, idle_timeout_s=7)
    answer = platform.http.put("/api/models/strict/autoscaling", json={"max_replica": 2})

    assert answer.status_code == 400
    assert platform.http.get("/api/models/strict/autoscaling").json()["keep_s"] == 7.0


def test_scaling_of_a_model_that_is_not_there_is_not_found(platform: RunningPlatform) -> None:
    assert platform.http.get("/api/models/nobody/autoscaling").status_code == 404
    assert platform.http.get("/api/models/nobody/decisions").status_code == 404
    assert platform.http.put("/api/models/nobody/autoscaling", json={}).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_only_a_post_wakes_a_model(platform: RunningPlatform, sample: Path, method: str) -> None:
    platform.deploy("asleep", sample)
    for path in ("/v1/models/asleep", "/models/asleep/v1/models", "/models/asleep/v1/completions"):
        platform.http.request(method, path)
    for path in ("/api/models/asleep", "/api/models/asleep/decisions", "/readyz"):
        platform.http.request(method, path)

    assert platform.state("asleep") == "zero"
    assert [d["action"] for d in decisions(platform, "asleep")["decisions"]] in ([], ["hold"])
