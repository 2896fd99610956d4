"""What the policy has learned outlives the processes that learned it."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.running_platform import RunningPlatform, kill_actor, workers_ready
from support.waiting import until

from pilotlight_platform.background import start_detached, stop_platform

pytestmark = pytest.mark.system


def cold_starts(platform: RunningPlatform, model: str) -> dict[str, Any]:
    """By tier, as they stand in the store."""
    with Redis.from_url(f"unix://{platform.settings.redis_dir}/redis.sock") as redis:
        state = json.loads(redis.get("pilotlight:1:learned") or b"{}")
    found: dict[str, Any] = state.get("models", {}).get(model, {})
    samples: dict[str, Any] = found.get("cold_starts", {}).get("samples", {})
    return samples


def count(platform: RunningPlatform, model: str) -> int:
    return sum(len(each) for each in cold_starts(platform, model).values())


def test_learned_survives_a_killed_scheduler(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("learner", sample, idle_timeout_s=1)
    platform.complete("learner")
    until(lambda: count(platform, "learner") == 1)
    kill_actor("Scheduler")
    until(lambda: platform.http.get("/api/status").status_code == 200, 60)
    until(lambda: workers_ready(platform) == 2, 60)
    until(lambda: platform.state("learner") == "zero")
    platform.complete("learner")

    until(lambda: count(platform, "learner") == 2)  # the first of them was not forgotten


def test_learned_is_saved_when_the_platform_stops(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("pupil", sample, idle_timeout_s=600)
    platform.complete("pupil")
    stop_platform(platform.settings.home)  # well before the five seconds after which it is saved
    start_detached(platform.settings, lambda message: None)

    assert count(platform, "pupil") == 1
    assert set(cold_starts(platform, "pupil")) == {"host"}  # it was baked a moment ago
