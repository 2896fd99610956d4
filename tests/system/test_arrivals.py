"""Models that are asked for at once, and a replica that is drained."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from support.running_platform import RunningPlatform, sse_events
from support.waiting import until

pytestmark = pytest.mark.system

TOKENS = 6000  # about ten seconds: a replica is drained after four


@pytest.fixture
def bare(platform: RunningPlatform) -> RunningPlatform:
    """The shared platform without a model: two workers of two empty slots."""
    for model in platform.http.get("/api/models").json()["models"]:
        platform.http.delete(f"/api/models/{model['name']}")

    def attached() -> list[str]:
        workers = platform.http.get("/api/status").json()["workers"]
        return [name for worker in workers for name in worker["attached"]]

    until(lambda: not attached())
    return platform


@pytest.fixture(scope="module")
def roomy(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with a context for answers that take some seconds."""
    source = Path(shutil.copytree(sample, tmp_path_factory.mktemp("roomy") / "source"))
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = 8192
    (source / "config.json").write_text(json.dumps(config))
    return source


class LongStream:
    """A streamed answer that is under way: its first event has come."""

    def __init__(self, platform: RunningPlatform, model: str) -> None:
        body = {"model": model, "prompt": "def", "max_tokens": TOKENS, "ignore_eos": True}
        self._platform = platform
        self._stack = ExitStack()
        request = platform.http.stream("POST", "/v1/completions", json={**body, "stream": True})
        self._answer = self._stack.enter_context(request)
        self._events = sse_events(self._answer)

    def __enter__(self) -> Self:
        next(self._events)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def worker_id(self) -> str:
        line = self._platform.timeline(self._answer)
        worker_id: str = line["worker_id"]
        return worker_id

    def last_event(self) -> Any:
        return list(self._events)[-1]


def replicas(platform: RunningPlatform, model: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.http.get(f"/api/models/{model}").json()["replicas"]
    return found


def rules(platform: RunningPlatform, model: str) -> list[tuple[str, str]]:
    found = platform.http.get(f"/api/models/{model}/decisions").json()["decisions"]
    return [(each["action"], each["rule"]) for each in found]


def test_arrivals_of_two_models_at_once_spread_over_the_workers(
    bare: RunningPlatform, sample: Path
) -> None:
    names = ("left", "right")
    for name in names:
        bare.deploy(name, sample, idle_timeout_s=600)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(bare.complete, names))

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len({bare.timeline(answer)["worker_id"] for answer in answers}) == 2


def test_arrivals_of_one_model_many_times_at_once_attach_it_once(
    bare: RunningPlatform, sample: Path
) -> None:
    bare.deploy("many", sample, idle_timeout_s=600, max_replicas=2, target_ongoing_requests=8)
    with ThreadPoolExecutor(8) as threads:  # as many as one replica runs at once
        answers = list(threads.map(lambda _: bare.complete("many"), range(8)))

    assert [answer.status_code for answer in answers] == [200] * 8
    assert [rule for rule in rules(bare, "many") if rule[0] == "attach"] == [
        ("attach", "from_zero")
    ]


def test_drained_replica_gets_nothing_new_ends_its_stream_and_goes(
    bare: RunningPlatform, roomy: Path
) -> None:
    bare.deploy(
        "ebbing",
        roomy,
        idle_timeout_s=600,
        downscale_delay_s=1,
        max_replicas=2,
        max_ongoing_requests=2,
        target_ongoing_requests=2,
        panic={"window_s": 1, "stable_window_s": 2},
    )
    with ExitStack() as stack:
        streams = [stack.enter_context(LongStream(bare, "ebbing")) for _ in range(4)]
        kept = {stream.worker_id(): stream for stream in streams}
        assert len(kept) == 2  # two run in each of two replicas
        for stream in streams:
            if stream not in kept.values():
                stream.close()
        until(lambda: [each["phase"] for each in replicas(bare, "ebbing")].count("draining") == 1)
        draining = next(r for r in replicas(bare, "ebbing") if r["phase"] == "draining")
        during = bare.timeline(bare.complete("ebbing"))["worker_id"]
        last = kept[draining["worker_id"]].last_event()

    assert draining["ongoing"] == 1
    assert during != draining["worker_id"]
    assert last == "[DONE]"
    until(lambda: len(replicas(bare, "ebbing")) == 1)
    assert ("drain", "surplus") in rules(bare, "ebbing")
