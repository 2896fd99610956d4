"""What the gateway answers over HTTP: whole, in streams, and with errors."""

import asyncio
import inspect
import json
import logging
from typing import Any

import pytest
from fastapi.routing import APIRoute
from support.scripted_gateway import (
    CHUNKS,
    TOKEN,
    ScriptedGateway,
    error_of,
)

from pilotlight_platform.errors import EngineError, InvalidRequestError
from pilotlight_platform.gateway import admin_routes, health_routes, openai_routes
from pilotlight_platform.gateway.request_context import RequestContext
from pilotlight_platform.schemas.generation import GenerationChunk
from pilotlight_platform.schemas.model import DeployProgress


def test_whole_answer(gateway: ScriptedGateway) -> None:
    body = gateway.complete().json()

    assert body["choices"] == [
        {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_stream_ends_with_reason_usage_done(gateway: ScriptedGateway) -> None:
    *chunks, last, done = gateway.events(
        "/v1/completions", prompt="x", stream_options={"include_usage": True}
    )

    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert done == "[DONE]"


def test_chat_stream_begins_with_the_role(gateway: ScriptedGateway) -> None:
    messages = [{"role": "user", "content": "x"}]
    *chunks, done = gateway.events("/v1/chat/completions", messages=messages)

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}]
    assert not any("usage" in chunk for chunk in chunks)
    assert done == "[DONE]"


def test_chat_logprobs_have_a_refusal(gateway: ScriptedGateway) -> None:
    gateway.workers.steps = (
        GenerationChunk("b", 1, (TOKEN,), prompt_tokens=1, finish_reason="stop"),
    )
    choice = gateway.chat(logprobs=True, top_logprobs=1).json()["choices"][0]

    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"][0]["token"] == "b"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("prompt: too odd", "prompt"), 400, "invalid_request"),
        (EngineError("broken"), 500, "engine_error"),
    ],
)
def test_error_before_the_first_token_is_a_plain_error(
    gateway: ScriptedGateway, stream: bool, error: Exception, status: int, code: str
) -> None:
    gateway.workers.steps = (error,)

    assert error_of(gateway.complete(stream=stream), status)["code"] == code


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("broken"), "engine_error"), (KeyError("x"), "internal_error")]
)
def test_error_within_a_stream_is_its_last_event(
    gateway: ScriptedGateway, error: Exception, code: str
) -> None:
    gateway.workers.steps = (CHUNKS[0], error)
    first, last = gateway.events("/v1/completions", prompt="x")

    assert first["choices"][0]["text"] == "a"
    assert last["error"]["code"] == code


def test_unexpected_exception_is_logged_and_not_told(
    gateway: ScriptedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    answer = gateway.http.get("/api/status", headers={"X-Request-Id": "id-1"})

    error = error_of(answer, 500)
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert error["message"] == "internal error; see the platform's log (request id id-1)"
    logged = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert [entry.name for entry in logged] == ["pilotlight.gateway"]
    assert "a detail of the inside" in caplog.text


def test_exception_after_the_response_began_cuts_it_off() -> None:
    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("late")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "path": "/", "headers": []}
    with pytest.raises(KeyError, match="late"):
        asyncio.run(RequestContext(app)(scope, None, send))

    assert sent == ["http.response.start"]


def test_request_id_of_the_caller_comes_back(gateway: ScriptedGateway) -> None:
    answer = gateway.http.get("/v1/models", headers={"X-Request-Id": "theirs-1"})

    assert answer.headers.get_list("X-Request-Id") == ["theirs-1"]


def test_request_without_an_id_is_given_one(gateway: ScriptedGateway) -> None:
    ids = {gateway.http.get("/v1/models").headers["X-Request-Id"] for _ in range(2)}

    assert len(ids) == 2


def test_bad_request_id_is_400(gateway: ScriptedGateway) -> None:
    answer = gateway.http.get("/v1/models", headers={"X-Request-Id": "a b"})

    assert error_of(answer, 400)["param"] == "X-Request-Id"


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("broken"), "engine_error"), (KeyError("x"), "internal_error")]
)
def test_deploy_events_end_with_the_error(
    gateway: ScriptedGateway, error: Exception, code: str
) -> None:
    gateway.deploys.steps = (DeployProgress(phase="check", message="checking"), error)
    answer = gateway.http.put(
        "/api/models/m",
        json={"name": "m", "source": "/source"},
        headers={"accept": "application/x-ndjson"},
    )

    first, last = (json.loads(line) for line in answer.iter_lines())
    assert first["event"] == "progress"
    assert (last["event"], last["code"]) == ("error", code)


def test_no_request_is_handed_to_a_thread() -> None:
    routes = [
        route
        for module in (openai_routes, admin_routes, health_routes)
        for route in module.router.routes
        if isinstance(route, APIRoute)
    ]
    needed = [need.call for route in routes for need in route.dependant.dependencies]

    assert {"/v1/completions", "/api/models", "/healthz"} <= {route.path for route in routes}
    assert needed
    for call in (*needed, *(route.endpoint for route in routes)):
        assert inspect.iscoroutinefunction(call), call
