"""The clock of every comparison: from sending a request to the first token's bytes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode

_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class FirstToken:
    """One measured request."""

    ttft_s: float
    request_id: str


def first_token(url: str, body: dict[str, object], headers: dict[str, str]) -> FirstToken:
    """Send a streamed completion on a fresh connection; read it to its end.

    Raises CliError if it fails or gives no token.
    """
    ttft_s = None
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers=headers) as http:
        began_s = time.perf_counter()
        with http.stream("POST", url, json=body) as answer:
            for line in answer.iter_lines():
                if ttft_s is None and line.startswith("data: ") and _has_token(line):
                    ttft_s = time.perf_counter() - began_s
    if answer.status_code != 200 or ttft_s is None:
        raise CliError(f"{url} answered {answer.status_code} without a token", ExitCode.UNEXPECTED)
    return FirstToken(ttft_s, answer.headers.get("x-request-id", ""))


def _has_token(line: str) -> bool:
    data = line.removeprefix("data: ")
    return data != "[DONE]" and bool(json.loads(data).get("choices"))
