"""A gateway over real HTTP, with workers and deploys that say what a test told them to."""

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from support.records import model_record
from support.running_platform import sse_events
from support.waiting import until

from pilotlight_platform.gateway.admission import Admission
from pilotlight_platform.gateway.app import create_app
from pilotlight_platform.gateway.generator import Generator
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.schemas.cluster import Route, RouteReplica, RoutingTable
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest, TokenLogprob
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
class ScriptedGateway:
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
def served(settings: Settings) -> Iterator[ScriptedGateway]:
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
            yield ScriptedGateway(http, workers, deploys)
    finally:
        server.should_exit = True
        thread.join()


def settings(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, max_body_bytes=LIMIT, workers=1, **changes)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert "dur=" in answer.headers["server-timing"]
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}
