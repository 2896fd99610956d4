"""The spans of one request. Times are Unix seconds, so that spans of several processes line up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SpanName = Literal[
    "admit",
    "place",
    "start_worker",
    "fetch",
    "stage",
    "attach",
    "room",
    "prefill",
    "first_token",
    "decode",
]
Tier = Literal["device", "host", "disk", "remote"]


@dataclass(frozen=True, slots=True)
class Span:
    """One step of a request; spans may overlap (``stage`` runs beside ``prefill``)."""

    name: SpanName
    start_s: float
    end_s: float
    nbytes: int = 0
    tier: Tier | None = None  # where the bytes came from
    floor_s: float | None = None  # what the link or the arithmetic allows

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Timeline:
    """What `/api/requests/{id}` answers."""

    request_id: str
    model: str
    endpoint: str
    at_s: float  # Unix seconds, when the gateway received the request
    status: int  # HTTP status; 200 for a stream that began, see `error` for how it ended
    cold: bool = False  # at one of its attempts no replica was ready
    attempts: int = 1  # replicas that it was sent to; the others had gone
    revision_id: str | None = None
    worker_id: str | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    spans: tuple[Span, ...] = ()
