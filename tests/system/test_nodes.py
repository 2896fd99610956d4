"""A platform on a Ray cluster that it joins: two nodes, workers that Serve adds and takes."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import free_port
from ray.cluster_utils import Cluster
from redis import Redis
from support.running_platform import RunningPlatform, sse_events, workers_ready
from support.waiting import until

from pilotlight_autoscaler import PoolConfig
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.pool_policy import CHANNEL
from pilotlight_platform.settings import Settings
from pilotlight_platform.store.embedded import EmbeddedRedis

pytestmark = [pytest.mark.system, pytest.mark.own_platform]

KEY = "a key"
MODELS = ("p", "q", "r")
_NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}
_LONG: dict[str, Any] = {"prompt": "def", "max_tokens": 900, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def joined(
    platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPlatform]:
    """Three workers of one slot on two nodes; the shared platform makes room for it for good."""
    stop_platform(platform.settings.home)
    home = tmp_path_factory.mktemp("joined")
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **_NODE})
        stack.callback(cluster.shutdown)
        cluster.add_node(num_cpus=2, **_NODE)
        settings = Settings(
            home=home,
            port=free_port(),
            worker_threads=1,
            worker_max_replicas=1,
            pool=PoolConfig(min_workers=3, max_workers=4, buffer_workers=0, idle_timeout_s=600),
            ray_address=cluster.address,
            redis_url=redis.url,
            api_key=KEY,
        )
        stack.callback(stop_platform, home)
        address = start_detached(settings, lambda message: None)
        with httpx.Client(
            base_url=address.url,
            timeout=60.0,
            trust_env=False,
            headers={"authorization": f"Bearer {KEY}"},
        ) as http:
            yield RunningPlatform(address.url, settings, http)


def nodes(platform: RunningPlatform) -> dict[str, str]:
    """The node of each worker."""
    workers = platform.http.get("/api/status").json()["workers"]
    return {each["worker_id"]: each["node_id"] for each in workers}


def leaving(platform: RunningPlatform) -> int:
    workers = platform.http.get("/api/status").json()["workers"]
    return sum(each["leaving"] for each in workers)


def configure(platform: RunningPlatform, idle_timeout_s: float) -> None:
    for name in MODELS:
        settings = {"idle_timeout_s": idle_timeout_s}
        answer = platform.http.put(f"/api/models/{name}/autoscaling", json=settings)
        assert answer.status_code == 200, answer.text


def test_nodes_unauthenticated_request_wakes_nothing(joined: RunningPlatform, sample: Path) -> None:
    joined.deploy("locked", sample)
    body = {"model": "locked", "prompt": "def", "max_tokens": 2}
    for headers in ({}, {"authorization": "Bearer another"}):
        for path in ("/v1/completions", "/models/locked/v1/completions"):
            answer = httpx.post(joined.url + path, json=body, headers=headers, trust_env=False)
            assert answer.status_code == 401
    decisions = joined.http.get("/api/models/locked/decisions").json()["decisions"]

    assert [each["action"] for each in decisions] in ([], ["hold"])
    assert joined.state("locked") == "zero"
    assert joined.complete("locked").status_code == 200  # with the key it wakes
    joined.http.delete("/api/models/locked")


def test_nodes_weights_are_found_again_where_they_are_in_memory(
    joined: RunningPlatform, sample: Path
) -> None:
    for name in MODELS:
        joined.deploy(name, sample, idle_timeout_s=600)
    with ThreadPoolExecutor(len(MODELS)) as threads:
        answers = list(threads.map(joined.complete, MODELS))
    before = {n: joined.timeline(a)["worker_id"] for n, a in zip(MODELS, answers, strict=True)}
    node_of = nodes(joined)
    configure(joined, 0.2)
    until(lambda: {joined.state(name) for name in MODELS} == {"zero"})
    # Without knowing where weights are, the next replica goes to the first of the empty workers.
    first_node = node_of[min(node_of)]
    elsewhere = next(name for name in MODELS if node_of[before[name]] != first_node)
    again = joined.timeline(joined.complete(elsewhere))

    assert len(set(before.values())) == 3
    assert len(set(node_of.values())) == 2
    assert again["cold"]
    assert node_of[again["worker_id"]] == node_of[before[elsewhere]]


def test_nodes_worker_that_serve_takes_unforeseen_ends_its_streams(
    joined: RunningPlatform, sample: Path
) -> None:
    configure(joined, 600)

    def stream(name: str) -> Any:
        body = {"model": name, **_LONG}
        with joined.http.stream("POST", "/v1/completions", json=body) as answer:
            return list(sse_events(answer))[-1]

    def running() -> int:
        statuses = [joined.http.get(f"/api/models/{name}").json() for name in MODELS]
        return sum(each["ongoing"] for status in statuses for each in status["replicas"])

    def one_is_taken(redis: Redis) -> bool:
        redis.publish(CHANNEL, json.dumps({"workers": 2, "at_least": False}))
        return leaving(joined) == 1  # nothing new is sent there

    assert joined.settings.redis_url is not None
    with ThreadPoolExecutor(len(MODELS)) as threads:
        streams = [threads.submit(stream, name) for name in MODELS]
        until(lambda: running() == 3)
        with Redis.from_url(joined.settings.redis_url) as redis:
            until(lambda: one_is_taken(redis))
        still_running = running()
        last = [each.result() for each in streams]

    assert still_running == 3
    assert last == ["[DONE]"] * 3
    # The scheduler goes on to tell Serve of three.
    until(lambda: workers_ready(joined) == 3 and leaving(joined) == 0, 60)
