"""A platform's HTTP side on a real port, with answers that the test sets."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pilotlight_platform.schemas.model import ModelRecord, ModelSpec, ModelStatus, Revision


@pytest.fixture(autouse=True)
def piped_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as for a pipe: `pytest -n` tells its processes the width of its own terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@dataclass
class Reply:
    """What the server answers to one method and path."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakePlatform:
    url: str
    replies: dict[tuple[str, str], Reply] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def on(self, method: str, path: str, value: Any, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        self.replies[method, path] = Reply(body, status, sent)

    def on_stream(self, path: str, *events: Any, done: bool = True) -> None:
        lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
        body = "".join([*lines, "data: [DONE]\n\n"] if done else lines).encode()
        self.on("POST", path, body, X_Request_Id="req-1", Server_Timing="attach;dur=3.0")


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            fake.seen.append((self.command, self.path, headers, self.rfile.read(size)))
            missing = {"error": {"message": f"no {self.path}", "code": "not_found"}}
            reply = fake.replies.get(
                (self.command, self.path.partition("?")[0]),
                Reply(json.dumps(missing).encode(), 404),
            )
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake = FakePlatform(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture
def model_status() -> ModelStatus:
    revision = Revision(
        id="chat-0123",
        path="/baked",
        source="/source",
        source_digest="d",
        label="v1",
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        parameters=373_000_000,
        nbytes=746_000_000,
        context_length=4096,
        created_at_s=1.0,
    )
    spec = ModelSpec(name="chat", source="/source")
    record = ModelRecord(spec=spec, revision=revision, created_at_s=1.0, updated_at_s=1.0)
    return ModelStatus(name="chat", state="zero", record=record, queued=0, replicas=[])


@pytest.fixture
def timeline() -> dict[str, Any]:
    """As `/api/requests/req-1` answers it: a cold start of 200 ms."""
    spans = [
        {"name": "admit", "start_s": 100.0, "end_s": 100.0004, "floor_s": 0.001},
        {"name": "place", "start_s": 100.0004, "end_s": 100.002},
        {
            "name": "attach",
            "start_s": 100.002,
            "end_s": 100.012,
            "nbytes": 746_000_000,
            "tier": "host",
            "floor_s": 0.002,
        },
        {"name": "prefill", "start_s": 100.02, "end_s": 100.19},
        {"name": "first_token", "start_s": 100.19, "end_s": 100.2},
        {"name": "decode", "start_s": 100.2, "end_s": 101.0},
    ]
    return {
        "request_id": "req-1",
        "model": "chat",
        "endpoint": "/v1/chat/completions",
        "at_s": 100.0,
        "status": 200,
        "cold": True,
        "ttft_s": 0.2,
        "total_s": 1.0,
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "finish_reason": "stop",
        "spans": spans,
    }


def chat_event(text: str = "", finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}


@pytest.fixture
def talking(platform: FakePlatform, timeline: dict[str, Any]) -> FakePlatform:
    """A platform whose model says "Hi you"; U+2028 and U+0085 are legal inside JSON."""
    events = (chat_event("Hi\u2028"), chat_event("\u0085you", "stop"), USAGE)
    platform.on_stream("/v1/chat/completions", *events)
    platform.on("GET", "/api/requests/req-1", timeline)
    return platform
