"""A running platform as its users see it: over HTTP."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from pilotlight_platform.settings import Settings


@dataclass(frozen=True)
class RunningPlatform:
    """The platform under test, as its users see it: over HTTP."""

    url: str
    settings: Settings
    http: httpx.Client

    def deploy(self, name: str, source: Path, **autoscaling: Any) -> dict[str, Any]:
        spec = {"name": name, "source": str(source), "autoscaling": autoscaling}
        answer = self.http.put(f"/api/models/{name}", json=spec)
        assert answer.status_code == 200, answer.text
        live: dict[str, Any] = answer.json()
        return live

    def complete(self, model: str, **body: Any) -> httpx.Response:
        return self.http.post(
            "/v1/completions",
            json={"model": model, "prompt": "def main", "max_tokens": 4, **body},
        )

    def state(self, model: str) -> str:
        status: str = self.http.get(f"/api/models/{model}").json()["state"]
        return status

    def timeline(self, answer: httpx.Response) -> dict[str, Any]:
        found = self.http.get(f"/api/requests/{answer.headers['x-request-id']}")
        assert found.status_code == 200, found.text
        line: dict[str, Any] = found.json()
        return line


def sse_events(answer: httpx.Response) -> Iterator[Any]:
    """The decoded `data:` lines of a streamed answer; ``"[DONE]"`` as it is."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def kill_actor(name: str) -> None:
    """`kill -9` of a Serve replica, found by the title that Ray gives its process."""
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith(f"ray::ServeReplica:pilotlight:{name}"):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of {name}")


def workers_ready(platform: RunningPlatform) -> int:
    return len(platform.http.get("/api/status").json()["workers"])
