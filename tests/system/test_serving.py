"""Serving over HTTP: from zero to the first token and back, by real clients."""

import contextlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from support.running_platform import RunningPlatform, sse_events
from support.waiting import until

from pilotlight_loader import Arena, kernel_layout
from pilotlight_loader.arena.records import Record

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def model(platform: RunningPlatform, sample: Path) -> str:
    platform.deploy("serving", sample, idle_timeout_s=30, max_ongoing_requests=4)
    return "serving"


@pytest.fixture(scope="module")
def openai_client(platform: RunningPlatform) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{platform.url}/v1", api_key="none", max_retries=0)


def test_serving_cold_request_streams_and_returns_to_zero(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("once", sample, idle_timeout_s=0.5)
    assert platform.state("once") == "zero"

    with platform.http.stream(
        "POST",
        "/v1/completions",
        json={"model": "once", "prompt": "def", "max_tokens": 5, "stream": True},
    ) as answer:
        events = list(sse_events(answer))

    assert events[-1] == "[DONE]"
    assert events[-2]["choices"][0]["finish_reason"] in {"length", "stop"}
    assert re.search(r"place;dur=.*attach;dur=.*prefill;dur=", answer.headers["server-timing"])
    until(lambda: platform.state("once") == "zero")


def test_serving_timeline_names_every_span(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("timed", sample, idle_timeout_s=0.5)
    answer = platform.complete("timed")
    line = platform.timeline(answer)
    names = {span["name"] for span in line["spans"]}
    attach = next(span for span in line["spans"] if span["name"] == "attach")

    assert names >= {"admit", "place", "attach", "stage", "prefill", "first_token", "decode"}
    assert line["cold"] is True
    assert line["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert 0 < line["ttft_s"] <= line["total_s"]
    assert attach["nbytes"] > 100_000
    assert all(span["end_s"] >= span["start_s"] for span in line["spans"])


def mapped_from(directory: str) -> set[str]:
    """Names of the weight files in *directory* that any process has mapped."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            found |= set(re.findall(rf"{re.escape(directory)}/(\S+)", maps.read_text()))
    return found


@pytest.mark.skipif(kernel_layout.kernel_id() is None, reason="this CPU or torch packs nothing")
def test_serving_bf16_model_maps_the_weights_packed_for_this_cpu(
    platform: RunningPlatform, sample: Path
) -> None:
    spec = {"name": "packed", "source": str(sample), "dtype": "bfloat16"}
    live = platform.http.put("/api/models/packed", json=spec).json()
    answer = platform.complete("packed")

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert mapped_from(live["model"]["record"]["revision"]["path"]) == {
        f"model.{kernel_layout.kernel_id()}.safetensors"
    }


def test_serving_warm_request_is_not_cold(platform: RunningPlatform, model: str) -> None:
    platform.complete(model)
    line = platform.timeline(platform.complete(model))

    assert line["cold"] is False
    assert "attach" not in {span["name"] for span in line["spans"]}


def test_serving_openai_client_chats(openai_client: openai.OpenAI, model: str) -> None:
    answer = openai_client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=4
    )

    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4


def test_serving_openai_client_streams_what_plain_answers(
    openai_client: openai.OpenAI, model: str
) -> None:
    question = {"model": model, "prompt": "return", "max_tokens": 12, "temperature": 0.0}
    plain = openai_client.completions.create(**question)
    stream = openai_client.completions.create(**question, stream=True)

    assert "".join(chunk.choices[0].text for chunk in stream) == plain.choices[0].text


def test_serving_openai_client_reads_usage_and_logprobs_of_a_stream(
    openai_client: openai.OpenAI, model: str
) -> None:
    chunks = list(
        openai_client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=2,
        )
    )
    tokens = [
        entry
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]

    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(tokens)
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in tokens)


def test_serving_lists_models_for_all_and_for_one(
    platform: RunningPlatform, openai_client: openai.OpenAI, model: str
) -> None:
    own = platform.http.get(f"/models/{model}/v1/models").json()

    assert model in {entry.id for entry in openai_client.models.list()}
    assert [entry["id"] for entry in own["data"]] == [model]


def test_serving_model_has_its_own_base_url(platform: RunningPlatform, model: str) -> None:
    client = openai.OpenAI(base_url=f"{platform.url}/models/{model}/v1", api_key="none")
    answer = client.completions.create(model=model, prompt="x", max_tokens=2)

    assert answer.model == model


def test_serving_burst_on_a_cold_model_attaches_once(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy("burst", sample, idle_timeout_s=30, max_ongoing_requests=3)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: platform.complete("burst"), range(12)))
    lines = [platform.timeline(answer) for answer in answers]
    attaches = [line for line in lines if any(s["name"] == "attach" for s in line["spans"])]

    assert [answer.status_code for answer in answers] == [200] * 12
    assert len(attaches) == 1


def test_serving_second_replica_starts_under_load(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy(
        "wide",
        sample,
        idle_timeout_s=30,
        max_replicas=2,
        max_ongoing_requests=1,
        target_ongoing_requests=1,
    )
    with ThreadPoolExecutor(8) as threads:
        work = lambda _: platform.complete("wide", max_tokens=200, ignore_eos=True)  # noqa: E731
        answers = list(threads.map(work, range(8)))
    workers = {platform.timeline(answer)["worker_id"] for answer in answers}

    assert [answer.status_code for answer in answers] == [200] * 8
    assert len(workers) == 2


def test_serving_full_queue_refuses_with_retry_after(
    platform: RunningPlatform, sample: Path
) -> None:
    platform.deploy(
        "narrow", sample, idle_timeout_s=30, max_ongoing_requests=1, max_queued_requests=1
    )
    platform.complete("narrow")  # warm: while cold, the one request that will run waits too
    with ThreadPoolExecutor(6) as threads:
        work = lambda _: platform.complete("narrow", max_tokens=200, ignore_eos=True)  # noqa: E731
        answers = list(threads.map(work, range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]

    assert len([answer for answer in answers if answer.status_code == 200]) >= 2
    assert refused
    assert refused[0].headers["retry-after"].isdigit()
    assert refused[0].json()["error"]["code"] == "queue_full"


def test_serving_more_models_than_room_evicts_idle_ones(
    platform: RunningPlatform, sample: Path
) -> None:
    names = [f"crowd-{number}" for number in range(6)]  # two workers hold two models each
    for name in names:
        platform.deploy(name, sample, idle_timeout_s=600)
    answers = [platform.complete(name) for name in names * 2]

    assert [answer.status_code for answer in answers] == [200] * 12
    for name in names:
        assert platform.http.delete(f"/api/models/{name}").status_code == 204


def test_serving_seed_repeats_the_answer(platform: RunningPlatform, model: str) -> None:
    first, second = (
        platform.complete(model, seed=7, max_tokens=16).json()["choices"][0]["text"]
        for _ in range(2)
    )

    assert first == second


def test_serving_probes_wake_nothing(platform: RunningPlatform, sample: Path) -> None:
    platform.deploy("asleep", sample)
    for path in ("/healthz", "/readyz", "/v1/models", "/v1/models/asleep", "/api/models"):
        assert platform.http.get(path).status_code == 200

    assert platform.state("asleep") == "zero"


def test_serving_second_cold_start_attaches_from_the_arena(
    platform: RunningPlatform, sample: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(sample, tmp_path / "source"))
    (source / "notes.txt").write_text("another checkpoint than that of the other tests")
    live = platform.deploy("kept", source, idle_timeout_s=2)
    content = Path(live["model"]["record"]["revision"]["path"]).name

    def entry() -> Record | None:
        with Arena.open(platform.settings.arena_path) as arena:
            found = (one for one in arena.entries() if one.key.startswith(f"{content}/"))
            return next((one for one in found if one.state == "ready"), None)

    assert entry() is None
    first = platform.complete("kept", seed=1)
    until(lambda: entry() is not None)
    until(lambda: platform.state("kept") == "zero")
    second = platform.complete("kept", seed=1)
    leased = entry()
    line = platform.timeline(second)

    assert line["cold"] is True
    assert {s["tier"] for s in line["spans"] if s["name"] in ("attach", "stage")} == {"host"}
    assert leased is not None
    assert leased.held
    assert second.json()["choices"] == first.json()["choices"]
