"""A pool that Serve grows from zero and shrinks to it, on a platform of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import free_port
from support.running_platform import RunningPlatform, kill_actor, sse_events, workers_ready
from support.waiting import until

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.settings import Settings

pytestmark = [pytest.mark.system, pytest.mark.own_platform]


@pytest.fixture(scope="module")
def elastic(
    platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPlatform]:
    """None to two workers; the shared platform makes room for it for good."""
    stop_platform(platform.settings.home)
    settings = Settings(
        home=tmp_path_factory.mktemp("elastic"),
        port=free_port(),
        worker_threads=1,
        worker_max_replicas=1,
        pool=PoolConfig(min_workers=0, max_workers=2, buffer_workers=0, idle_timeout_s=2),
    )
    address = start_detached(settings, lambda message: None)
    try:
        with httpx.Client(base_url=address.url, timeout=60.0, trust_env=False) as http:
            yield RunningPlatform(address.url, settings, http)
    finally:
        stop_platform(settings.home)


def test_pool_goes_from_zero_to_two_and_back_and_loses_no_request(
    elastic: RunningPlatform, sample: Path
) -> None:
    elastic.deploy("one", sample, idle_timeout_s=3)
    elastic.deploy("two", sample, idle_timeout_s=3)
    assert workers_ready(elastic) == 0
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(elastic.complete, n) for n in ("one", "two", "one", "two")]
        answers = [each.result() for each in work]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert {elastic.timeline(answer)["model"] for answer in answers} == {"one", "two"}
    until(lambda: workers_ready(elastic) == 0, 60)
    assert elastic.complete("one").status_code == 200  # and once more from nothing


def test_pool_shrinks_around_a_worker_that_is_busy(elastic: RunningPlatform, sample: Path) -> None:
    elastic.deploy("long", sample, idle_timeout_s=1, max_ongoing_requests=1)
    elastic.deploy("short", sample, idle_timeout_s=1)
    body = {"model": "long", "prompt": "def", "max_tokens": 500, "ignore_eos": True, "stream": True}
    assert elastic.complete("short").status_code == 200
    for _ in range(3):  # whichever of the two workers has it
        with elastic.http.stream("POST", "/v1/completions", json=body) as answer:
            events = sse_events(answer)
            next(events)
            assert elastic.complete("short").status_code == 200
            rest = list(events)
        assert rest[-1] == "[DONE]"

    until(lambda: workers_ready(elastic) == 0, 60)


def test_pool_takes_other_bounds_while_it_runs(elastic: RunningPlatform) -> None:
    def configure(**bounds: float) -> httpx.Response:
        values = {"min_workers": 0, "max_workers": 2, "buffer_workers": 0, "idle_timeout_s": 2}
        return elastic.http.put("/api/pool", json={**values, **bounds})

    until(lambda: workers_ready(elastic) == 0, 60)
    raised = configure(min_workers=1)
    until(lambda: workers_ready(elastic) == 1, 60)
    refused = configure(max_workers=3)
    kill_actor("Scheduler")
    until(lambda: elastic.http.get("/api/status").status_code == 200, 60)
    after = elastic.http.get("/api/pool").json()
    lowered = configure()
    until(lambda: workers_ready(elastic) == 0, 60)

    assert (raised.status_code, lowered.status_code) == (200, 200)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "pool_unchangeable"
    assert after["config"]["min_workers"] == 1  # a scheduler that died has not lost it
