"""The client against a real HTTP server."""

import json
import socket

import pytest

from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.schemas.model import DeployFailed, DeployLive, DeployProgress, ModelSpec

SPEC = ModelSpec(name="chat", source="/source")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(platform):
    with PlatformClient(platform.url, "key") as client:
        yield client


def ndjson(*events):
    return "".join(event.model_dump_json() + "\n" for event in events).encode()


def test_models_are_listed(platform, client, model_status):
    platform.on("GET", "/api/models", {"models": [model_status.model_dump(mode="json")]})

    assert client.models() == [model_status]
    assert platform.seen[0][2]["authorization"] == "Bearer key"


def test_name_is_quoted_in_the_path(platform, client):
    with pytest.raises(CliError):
        client.model("../status")
    assert platform.seen[0][1] == "/api/models/..%2Fstatus"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid_request", ExitCode.BAD_INPUT),
        (401, "invalid_api_key", ExitCode.REFUSED),
        (404, "model_not_found", ExitCode.NOT_FOUND),
        (422, "invalid_source", ExitCode.BAD_INPUT),
        (422, "verification_failed", ExitCode.REFUSED),
        (429, "queue_full", ExitCode.REFUSED),
        (500, "internal_error", ExitCode.REFUSED),
        (503, "store_unreachable", ExitCode.REFUSED),
    ],
)
def test_api_error_keeps_its_message(platform, client, status, code, exit_code):
    error = {"message": "so it is", "type": "t", "param": None, "code": code}
    platform.on("GET", "/api/models/chat", {"error": error}, status)

    with pytest.raises(CliError, match="so it is") as caught:
        client.model("chat")
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize(
    ("body", "status"), [(b"<html>", 404), (b"<html>", 200), (b'{"other": 1}', 200), (b"[]", 500)]
)
def test_another_server_is_recognised(platform, client, body, status):
    platform.on("GET", "/api/status", body, status)

    with pytest.raises(CliError, match="Pilotlight") as caught:
        client.status()
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_refused_connection_says_how_to_start():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with PlatformClient(url) as client, pytest.raises(CliError) as caught:
            client.status()

    assert caught.value.lines() == [
        f"error: no platform answers at {url}: start one with `pilotlight up`"
    ]
    assert caught.value.exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://a:b", ""])
def test_malformed_url_is_a_usage_error(url):
    with pytest.raises(CliError) as caught:
        PlatformClient(url)
    assert caught.value.exit_code == ExitCode.USAGE


def test_delete(platform, client):
    platform.on("DELETE", "/api/models/chat", b"", 204)

    client.delete("chat")


def test_deploy_streams_its_events(platform, client, model_status):
    step = DeployProgress(phase="bake", message="layer 1", done_bytes=1, total_bytes=2)
    live = DeployLive(model=model_status, reused=False)
    platform.on("PUT", "/api/models/chat", ndjson(step, live))

    assert list(client.deploy(SPEC)) == [step, live]
    assert json.loads(platform.seen[0][3]) == SPEC.model_dump(mode="json")


def test_failed_deploy_raises(platform, client):
    failed = DeployFailed(code="invalid_source", message="no safetensors in /source")
    platform.on("PUT", "/api/models/chat", ndjson(failed))

    with pytest.raises(CliError, match="no safetensors") as caught:
        list(client.deploy(SPEC))
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_deploy_that_breaks_off_is_told(platform, client):
    platform.on("PUT", "/api/models/chat", ndjson(DeployProgress(phase="bake", message="x")))

    with pytest.raises(CliError, match="broke off"):
        list(client.deploy(SPEC))


def test_chat_streams_text_then_tells_what_it_came_to(talking):
    with PlatformClient(talking.url) as client, client.chat("chat", HELLO, seed=None) as stream:
        pieces = list(stream)
    answer = stream.answer()

    assert pieces == ["Hi\u2028", "\u0085you"]
    assert answer.text == "Hi\u2028\u0085you"
    assert (answer.request_id, answer.finish_reason) == ("req-1", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.total_s
    assert json.loads(talking.seen[0][3]) == {
        "model": "chat",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_completion_streams_text(platform, client):
    choice = {"index": 0, "text": "abc", "finish_reason": "length"}
    platform.on_stream("/v1/completions", {"choices": [choice]})

    with client.complete("chat", "a", max_tokens=3) as stream:
        assert list(stream) == ["abc"]


def test_error_inside_a_stream_is_raised(platform, client):
    error = {"message": "the worker died", "code": "worker_lost"}
    platform.on_stream("/v1/chat/completions", {"error": error}, done=False)

    with (
        pytest.raises(CliError, match="the worker died") as caught,
        client.chat("chat", HELLO) as stream,
    ):
        list(stream)
    assert caught.value.exit_code == ExitCode.REFUSED


def test_answer_that_breaks_off_is_told(platform, client):
    platform.on_stream("/v1/chat/completions", {"choices": []}, done=False)

    with (
        pytest.raises(CliError, match="broke off") as caught,
        client.chat("chat", HELLO) as stream,
    ):
        list(stream)
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_timeline(talking):
    with PlatformClient(talking.url) as client:
        timeline = client.finished_timeline("req-1")

    assert timeline.cold
    assert timeline.spans[2].nbytes == 746_000_000
