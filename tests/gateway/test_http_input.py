"""What the gateway takes over HTTP, and what it refuses: bodies, paths, fields."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.scripted_gateway import (
    LIMIT,
    ScriptedGateway,
    error_of,
)


def in_chunks(size: int) -> Iterator[bytes]:
    yield b'{"model": "m", "prompt": "'
    for _ in range(size // 1000):
        yield b"x" * 1000
    yield b'"}'


@pytest.mark.parametrize("path", ["/v1/completions", "/api/models/m"])
def test_body_without_length_over_the_limit_is_413(gateway: ScriptedGateway, path: str) -> None:
    method = "PUT" if path.startswith("/api") else "POST"
    answer = gateway.http.request(method, path, content=in_chunks(2 * LIMIT))

    error = error_of(answer, 413)
    assert (error["code"], error["type"]) == ("body_too_large", "invalid_request_error")
    assert gateway.workers.calls == []


def test_body_without_length_within_the_limit_is_served(gateway: ScriptedGateway) -> None:
    headers = {"content-type": "application/json"}
    answer = gateway.http.post("/v1/completions", content=in_chunks(LIMIT // 2), headers=headers)

    assert answer.status_code == 200, answer.text


def test_body_with_length_over_the_limit_is_413(gateway: ScriptedGateway) -> None:
    answer = gateway.complete(prompt="x" * LIMIT)

    assert error_of(answer, 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"model": "m", "prompt": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"model": "m", "seed": ' + b"9" * 5000 + b"}", id="endless number"),
        pytest.param(b'{"model": ', id="cut off"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[" * 9000, id="too deep"),
    ],
)
def test_body_that_is_no_json_object_is_400(gateway: ScriptedGateway, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = gateway.http.post("/v1/completions", content=content, headers=headers)

    error = error_of(answer, 400)
    assert (error["code"], error["param"]) == ("invalid_request", None)


def test_setting_that_only_others_have_is_400_with_the_reason(gateway: ScriptedGateway) -> None:
    scaling = {"target_num_ongoing_requests_per_replica": 2}
    spec = {"name": "m", "source": "/s", "autoscaling": scaling}
    error = error_of(gateway.http.put("/api/models/m", json=spec), 400)

    assert error["param"] == "autoscaling.target_num_ongoing_requests_per_replica"
    assert error["message"].endswith("unknown key; target_ongoing_requests is the name here")


def test_setting_that_others_have_elsewhere_is_only_unknown(gateway: ScriptedGateway) -> None:
    spec = {"name": "m", "source": "/s", "autoscaling": {"model": "n"}}
    error = error_of(gateway.http.put("/api/models/m", json=spec), 400)

    assert error["param"] == "autoscaling.model"
    assert "name is the name here" not in error["message"]


def test_wrong_path_and_method_have_codes(gateway: ScriptedGateway) -> None:
    assert error_of(gateway.http.get("/v2/nothing"), 404)["code"] == "not_found"
    wrong = gateway.http.get("/v1/completions")
    assert error_of(wrong, 405)["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        "/models/-1/v1/models",
        "/models/..%2F..%2Fetc/v1/models",
        "/models/%2E%2E/v1/models",
        "/models/%00/v1/models",
        "/models/%FF/v1/models",
        "/v1/models/%2E%2E",
    ],
)
def test_path_that_names_no_model_is_404(gateway: ScriptedGateway, path: str) -> None:
    error_of(gateway.http.get(path), 404)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": "a\ud800"}, "prompt"),
        ({"prompt": ["\udc80"]}, "prompt"),
        ({"stop": "\ud800"}, "stop"),
        ({"stop": ["a", "\ud800"]}, "stop"),
        ({"model": "\ud800"}, "model"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"stream_options": {"include_usage": "\ud800"}}, "stream_options.include_usage"),
    ],
)
def test_bad_field_is_400_and_named(
    gateway: ScriptedGateway, change: dict[str, Any], param: str
) -> None:
    body = {"model": "m", "prompt": "x", **change}
    headers = {"content-type": "application/json"}  # httpx itself would refuse to send "\ud800"
    answer = gateway.http.post("/v1/completions", content=json.dumps(body), headers=headers)

    assert error_of(answer, 400)["param"] == param
    assert gateway.workers.calls == []


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ("\ud800", "messages.1.content"),
        ([{"type": "text", "text": "\ud800"}], "messages.1.content"),
        (["\ud800"], "messages.1.content"),
    ],
)
def test_bad_message_is_400_and_named(gateway: ScriptedGateway, content: Any, param: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": content}]
    answer = gateway.http.post(
        "/v1/chat/completions",
        content=json.dumps({"model": "m", "messages": messages}),
        headers={"content-type": "application/json"},
    )

    assert error_of(answer, 400)["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"revision": "\ud800"}, "revision"),
        ({"source": "/\ud800"}, "source"),
        ({"\ud800": 1}, None),
        ({"sauce": 1}, "sauce"),
        ({"name": "other"}, "name"),
    ],
)
def test_bad_spec_is_400_and_named(
    gateway: ScriptedGateway, change: dict[str, Any], param: str | None
) -> None:
    spec = {"name": "m", "source": "/x", **change}
    headers = {"content-type": "application/json"}
    answer = gateway.http.put("/api/models/m", content=json.dumps(spec), headers=headers)

    assert error_of(answer, 400)["param"] == param
    assert gateway.deploys.calls == []


NULLS = dict.fromkeys(
    (
        "temperature",
        "top_p",
        "top_k",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "max_tokens",
        "logprobs",
        "ignore_eos",
        "tools",
        "user",
    )
)


def test_null_is_as_if_not_given(gateway: ScriptedGateway) -> None:
    for answer in (
        gateway.complete(),
        gateway.complete(**NULLS, best_of=None),
        gateway.chat(),
        gateway.chat(**NULLS, top_logprobs=None, max_completion_tokens=None),
        gateway.complete(stream=True, stream_options={"include_usage": None}),
    ):
        assert answer.status_code == 200, answer.text

    plain, with_nulls, chat, chat_with_nulls, _ = (c.sampling for c in gateway.workers.calls)
    assert with_nulls == plain
    assert plain.max_tokens == 16
    assert chat_with_nulls == chat
    assert chat.max_tokens is None
