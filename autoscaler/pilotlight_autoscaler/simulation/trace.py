"""Requests of many models as columns of integers: what the engine replays."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass

from pilotlight_autoscaler.simulation.errors import TraceError

US_PER_S = 1_000_000
MAX_REQUESTS = 50_000_000  # 28 bytes each: 1.4 GB
MAX_MODELS = 10_000
MAX_SERVICE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """How long an answer takes on a ready replica: prefill, then one token after another."""

    prefill_tokens_per_s: float = 8000.0
    decode_tokens_per_s: float = 50.0

    def first_token_s(self, input_tokens: float) -> float:
        return input_tokens / self.prefill_tokens_per_s

    def service_s(self, input_tokens: float, output_tokens: float) -> float:
        return self.first_token_s(input_tokens) + output_tokens / self.decode_tokens_per_s


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of arrival; times are microseconds from the start of the trace.

    ``model`` indexes ``names``; ``service_us`` includes ``first_token_us``.
    """

    names: tuple[str, ...]
    arrival_us: array[int]
    model: array[int]
    first_token_us: array[int]
    service_us: array[int]
    horizon_us: int  # at which the accounts are closed

    def __len__(self) -> int:
        return len(self.arrival_us)

    def digest(self) -> str:
        """SHA-256 over names and columns: two equal traces replay alike."""
        sha = hashlib.sha256(repr((self.names, self.horizon_us)).encode())
        for column in (self.arrival_us, self.model, self.first_token_us, self.service_us):
            sha.update(column.tobytes())
        return sha.hexdigest()

    def first(self, horizon_us: int) -> Trace:
        """The part before *horizon_us*."""
        end = bisect_left(self.arrival_us, horizon_us)
        return Trace(
            self.names,
            self.arrival_us[:end],
            self.model[:end],
            self.first_token_us[:end],
            self.service_us[:end],
            min(horizon_us, self.horizon_us),
        )


class TraceBuilder:
    """Collects requests in any order; bounded."""

    def __init__(self, max_requests: int = MAX_REQUESTS, max_models: int = MAX_MODELS) -> None:
        self._max_requests = max_requests
        self._max_models = max_models
        self._models: dict[str, int] = {}
        self._columns = (array("q"), array("i"), array("q"), array("q"))

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, at_us: int, model: str, first_token_s: float, service_s: float) -> None:
        """One request. Raises TraceError for an impossible duration or one too many."""
        if not 0 <= first_token_s <= service_s <= MAX_SERVICE_S:
            raise TraceError(
                f"a request takes 0 to {MAX_SERVICE_S:g} s, its first token no longer: "
                f"not {service_s:g} s and {first_token_s:g} s"
            )
        if len(self) >= self._max_requests:
            raise TraceError(f"more than {self._max_requests} requests: split the trace")
        arrival_us, index, first_token_us, service_us = self._columns
        arrival_us.append(at_us)
        index.append(self.model_index(model))
        first_token_us.append(round(first_token_s * US_PER_S))
        service_us.append(max(1, round(service_s * US_PER_S)))

    def model_index(self, model: str) -> int:
        """The model's index, also for one without requests. Raises TraceError if too many."""
        found = self._models.get(model)
        if found is None:
            if len(self._models) >= self._max_models:
                raise TraceError(f"more than {self._max_models} models: filter the trace")
            found = self._models[model] = len(self._models)
        return found

    def build(self, horizon_us: int | None = None) -> Trace:
        """The trace, from its first request on unless *horizon_us* fixes start 0 and end."""
        arrival_us, index, first_token_us, service_us = self._columns
        if not arrival_us:
            raise TraceError("no request in the trace")
        order = sorted(range(len(arrival_us)), key=arrival_us.__getitem__)
        start_us = arrival_us[order[0]] if horizon_us is None else 0
        arrivals = array("q", (arrival_us[at] - start_us for at in order))
        return Trace(
            tuple(self._models),
            arrivals,
            array("i", (index[at] for at in order)),
            array("q", (first_token_us[at] for at in order)),
            array("q", (service_us[at] for at in order)),
            arrivals[-1] + 1 if horizon_us is None else horizon_us,
        )
