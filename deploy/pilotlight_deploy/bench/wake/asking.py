"""One question to a model, and all that its answer tells."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from pilotlight_deploy.event_lines import (
    BrokenStreamError,
    iter_lines,
    iter_sse_objects,
    json_object,
)

_TIMEOUT_S = 180.0  # above cold_start_timeout_s (120): the platform's own answer is to be seen
_BODY = {"prompt": "def main", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was sent; durations are seconds since it was due."""

    model: str
    request_id: str
    sent_at_s: float  # Unix
    late_s: float  # sent after it was due
    ttft_s: float | None
    text: str
    placed: bool  # it waited for a replica or for a slot
    problem: str | None  # None: answered 200, to the end


def connect(url: str) -> httpx.AsyncClient:
    """A client that opens a connection for each question, as strangers would."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=_TIMEOUT_S,
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )


async def ask(http: httpx.AsyncClient, model: str, due_s: float | None = None) -> Asked:
    """The question, now. *due_s*: when it should have been sent, in time.monotonic()."""
    sent_at_s, sent_s = time.time(), time.monotonic()
    due_s = sent_s if due_s is None else due_s
    first_s: float | None = None
    received: list[bytes] = []
    text, problem = "", None
    headers = httpx.Headers()
    try:
        body = {"model": model, "stream": True, **_BODY}
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            headers = answer.headers
            async for data in answer.aiter_bytes():
                if first_s is None:
                    first_s = time.monotonic()  # the first bytes come with the first token
                received.append(data)
        if answer.status_code == 200:
            text = _text(received)
        else:
            problem = f"{answer.status_code}: {_error_code(b''.join(received))}"
    except (httpx.HTTPError, BrokenStreamError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Asked(
        model=model,
        request_id=headers.get("x-request-id", ""),
        sent_at_s=sent_at_s,
        late_s=sent_s - due_s,
        ttft_s=None if first_s is None or problem is not None else first_s - due_s,
        text=text,
        placed="place;" in headers.get("server-timing", ""),
        problem=problem,
    )


def _text(received: list[bytes]) -> str:
    pieces = []
    for event in iter_sse_objects(iter_lines(received)):
        if "error" in event:
            raise BrokenStreamError(str(event["error"].get("code")))
        pieces += [choice.get("text") or "" for choice in event.get("choices", ())]
    return "".join(pieces)


def _error_code(body: bytes) -> str:
    try:
        return str(json_object(body)["error"]["code"])
    except (BrokenStreamError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
