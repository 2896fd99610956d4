"""The gateway over real HTTP, with workers and deploys that say what the test told them to."""

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute
from support.records import model_record
from support.running_platform import sse_events
from support.waiting import until

from pilotlight_platform.errors import EngineError, InvalidRequestError
from pilotlight_platform.gateway import admin_routes, health_routes, openai_routes
from pilotlight_platform.gateway.admission import Admission
from pilotlight_platform.gateway.app import create_app
from pilotlight_platform.gateway.generator import Generator
from pilotlight_platform.gateway.request_context import RequestContext
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest, TokenLogprob
from pilotlight_platform.schemas.model import DeployProgress
from pilotlight_platform.settings import Settings

LIMIT = 10_000
KEY = "s3cret-ü"
TOKEN = TokenLogprob(7, "b", b"b", -0.5, ((7, "b", b"b", -0.5),))
CHUNKS = (
    GenerationChunk("a", 1, prompt_tokens=3),
    GenerationChunk("b", 1, finish_reason="stop"),
)


class Script:
    """Gives its steps one by one, raising those that are exceptions; notes what it was asked."""

    def __init__(self) -> None:
        self.steps: tuple[Any, ...] = ()
        self.calls: list[Any] = []

    async def generate(
        self, worker_id: str, request: GenerationRequest, *, expected: bool
    ) -> AsyncGenerator[Any]:
        async for step in self.run(request):
            yield step

    async def run(self, call: Any) -> AsyncGenerator[Any]:
        self.calls.append(call)
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            yield step


class Platform:
    """Services with a real admission, of a platform where model `m` is ready."""

    def __init__(self, settings: Settings, workers: Script, deploys: Script) -> None:
        self.settings = settings
        self.deploys = deploys
        self.timelines = TimelineLog(10)
        self.admission = Admission(self.place)
        self.admission.update(RoutingTable(1, {"m": self.route()}))
        self.generator = Generator(self.admission, workers, self.timelines)

    @staticmethod
    def route() -> Route:
        return Route(model_record(), (RouteReplica("w1", True),))

    async def place(self, name: str, queued: int) -> Route:
        return self.route()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def status(self) -> None:
        raise RuntimeError("a detail of the inside")


@dataclass
class Gateway:
    """A served gateway and what its workers and deploys will do."""

    http: httpx.Client
    workers: Script = field(default_factory=Script)
    deploys: Script = field(default_factory=Script)

    def complete(self, **body: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"model": "m", "prompt": "x", **body})

    def chat(self, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "x"}]
        return self.http.post(
            "/v1/chat/completions", json={"model": "m", "messages": messages, **body}
        )

    def events(self, path: str, **body: Any) -> list[Any]:
        body = {"model": "m", "stream": True, **body}
        with self.http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return list(sse_events(answer))


@contextmanager
def served(settings: Settings) -> Iterator[Gateway]:
    workers, deploys = Script(), Script()
    app = create_app(settings, lambda: Platform(settings, workers, deploys))
    config = uvicorn.Config(app, port=0, log_config=None, ws="none", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield Gateway(http, workers, deploys)
    finally:
        server.should_exit = True
        thread.join()


def settings(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, max_body_bytes=LIMIT, workers=1, **changes)


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with served(settings(tmp_path_factory.mktemp("open"))) as running:
        yield running


@pytest.fixture(scope="module")
def closed_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with served(settings(tmp_path_factory.mktemp("closed"), api_key=KEY)) as running:
        yield running


@pytest.fixture
def gateway(open_gateway: Gateway) -> Gateway:
    open_gateway.workers.steps = CHUNKS
    open_gateway.workers.calls.clear()
    return open_gateway


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert "dur=" in answer.headers["server-timing"]
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


# Bodies


def in_chunks(size: int) -> Iterator[bytes]:
    yield b'{"model": "m", "prompt": "'
    for _ in range(size // 1000):
        yield b"x" * 1000
    yield b'"}'


@pytest.mark.parametrize("path", ["/v1/completions", "/api/models/m"])
def test_body_without_length_over_the_limit_is_413(gateway: Gateway, path: str) -> None:
    method = "PUT" if path.startswith("/api") else "POST"
    answer = gateway.http.request(method, path, content=in_chunks(2 * LIMIT))

    error = error_of(answer, 413)
    assert (error["code"], error["type"]) == ("body_too_large", "invalid_request_error")
    assert gateway.workers.calls == []


def test_body_without_length_within_the_limit_is_served(gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    answer = gateway.http.post("/v1/completions", content=in_chunks(LIMIT // 2), headers=headers)

    assert answer.status_code == 200, answer.text


def test_body_with_length_over_the_limit_is_413(gateway: Gateway) -> None:
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
def test_body_that_is_no_json_object_is_400(gateway: Gateway, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = gateway.http.post("/v1/completions", content=content, headers=headers)

    error = error_of(answer, 400)
    assert (error["code"], error["param"]) == ("invalid_request", None)


def test_setting_that_only_others_have_is_400_with_the_reason(gateway: Gateway) -> None:
    scaling = {"target_num_ongoing_requests_per_replica": 2}
    spec = {"name": "m", "source": "/s", "autoscaling": scaling}
    error = error_of(gateway.http.put("/api/models/m", json=spec), 400)

    assert error["param"] == "autoscaling.target_num_ongoing_requests_per_replica"
    assert error["message"].endswith("unknown key; target_ongoing_requests is the name here")


def test_wrong_path_and_method_have_codes(gateway: Gateway) -> None:
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
def test_path_that_names_no_model_is_404(gateway: Gateway, path: str) -> None:
    error_of(gateway.http.get(path), 404)


# Fields


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
def test_bad_field_is_400_and_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
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
def test_bad_message_is_400_and_named(gateway: Gateway, content: Any, param: str) -> None:
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
    gateway: Gateway, change: dict[str, Any], param: str | None
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


def test_null_is_as_if_not_given(gateway: Gateway) -> None:
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


# Answers


def test_whole_answer(gateway: Gateway) -> None:
    body = gateway.complete().json()

    assert body["choices"] == [
        {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_stream_ends_with_reason_usage_done(gateway: Gateway) -> None:
    *chunks, last, done = gateway.events(
        "/v1/completions", prompt="x", stream_options={"include_usage": True}
    )

    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert done == "[DONE]"


def test_chat_stream_begins_with_the_role(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "x"}]
    *chunks, done = gateway.events("/v1/chat/completions", messages=messages)

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}]
    assert not any("usage" in chunk for chunk in chunks)
    assert done == "[DONE]"


def test_chat_logprobs_have_a_refusal(gateway: Gateway) -> None:
    gateway.workers.steps = (
        GenerationChunk("b", 1, (TOKEN,), prompt_tokens=1, finish_reason="stop"),
    )
    choice = gateway.chat(logprobs=True, top_logprobs=1).json()["choices"][0]

    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"][0]["token"] == "b"


# Errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("prompt: too odd", "prompt"), 400, "invalid_request"),
        (EngineError("broken"), 500, "engine_error"),
    ],
)
def test_error_before_the_first_token_is_a_plain_error(
    gateway: Gateway, stream: bool, error: Exception, status: int, code: str
) -> None:
    gateway.workers.steps = (error,)

    assert error_of(gateway.complete(stream=stream), status)["code"] == code


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("broken"), "engine_error"), (KeyError("x"), "internal_error")]
)
def test_error_within_a_stream_is_its_last_event(
    gateway: Gateway, error: Exception, code: str
) -> None:
    gateway.workers.steps = (CHUNKS[0], error)
    first, last = gateway.events("/v1/completions", prompt="x")

    assert first["choices"][0]["text"] == "a"
    assert last["error"]["code"] == code


def test_unexpected_exception_is_logged_and_not_told(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
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


def test_request_id_of_the_caller_comes_back(gateway: Gateway) -> None:
    answer = gateway.http.get("/v1/models", headers={"X-Request-Id": "theirs-1"})

    assert answer.headers.get_list("X-Request-Id") == ["theirs-1"]


def test_request_without_an_id_is_given_one(gateway: Gateway) -> None:
    ids = {gateway.http.get("/v1/models").headers["X-Request-Id"] for _ in range(2)}

    assert len(ids) == 2


def test_bad_request_id_is_400(gateway: Gateway) -> None:
    answer = gateway.http.get("/v1/models", headers={"X-Request-Id": "a b"})

    assert error_of(answer, 400)["param"] == "X-Request-Id"


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("broken"), "engine_error"), (KeyError("x"), "internal_error")]
)
def test_deploy_events_end_with_the_error(gateway: Gateway, error: Exception, code: str) -> None:
    gateway.deploys.steps = (DeployProgress(phase="check", message="checking"), error)
    answer = gateway.http.put(
        "/api/models/m",
        json={"name": "m", "source": "/source"},
        headers={"accept": "application/x-ndjson"},
    )

    first, last = (json.loads(line) for line in answer.iter_lines())
    assert first["event"] == "progress"
    assert (last["event"], last["code"]) == ("error", code)


# Who may call


@pytest.mark.parametrize(
    "path", ["/v1/models", "/api/status", "/docs", "/redoc", "/openapi.json", "/nothing"]
)
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), {b"authorization": KEY.encode()}], ids=["no", "wrong", "bare"]
)
def test_key_is_needed_everywhere(
    closed_gateway: Gateway, path: str, headers: dict[bytes, bytes]
) -> None:
    answer = closed_gateway.http.get(path, headers=headers)

    assert error_of(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_key_comes_before_the_body(closed_gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    answer = closed_gateway.http.post("/v1/completions", content=b"{", headers=headers)

    assert error_of(answer, 401)["code"] == "invalid_api_key"


def test_key_opens_from_any_host(closed_gateway: Gateway) -> None:
    headers = {**bearer(KEY), b"host": b"models.example.com", b"origin": b"https://example.com"}

    for path in ("/v1/models", "/docs", "/openapi.json"):
        assert closed_gateway.http.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503)])
def test_probes_need_nothing(
    closed_gateway: Gateway, gateway: Gateway, path: str, status: int
) -> None:
    assert closed_gateway.http.get(path).status_code == status
    assert gateway.http.get(path, headers={"host": "10.0.0.7"}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "LOCALHOST:8000"},
        {"host": "[::1]:8000"},
        {"host": "::1"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://[::1]:3000"},
    ],
)
def test_without_a_key_this_machine_may_call(gateway: Gateway, headers: dict[str, str]) -> None:
    assert gateway.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost:80@evil.example"},
        {"host": "0.0.0.0"},
        {"host": "[evil.example"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost.evil.example:8000"},
        {"origin": "null"},
    ],
)
def test_without_a_key_other_sites_may_not_call(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = gateway.http.post("/v1/completions", json={"model": "m"}, headers=headers)

    error = error_of(answer, 403)
    assert error["code"] == "host_not_allowed"
    assert "PILOTLIGHT_API_KEY" in error["message"]


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
