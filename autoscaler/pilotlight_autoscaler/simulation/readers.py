"""Access logs to traces: CSV, JSON lines, Common Log Format. Lines in, a trace out."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pilotlight_autoscaler.simulation.errors import TraceError
from pilotlight_autoscaler.simulation.trace import (
    MAX_MODELS,
    MAX_REQUESTS,
    US_PER_S,
    ServiceModel,
    Trace,
    TraceBuilder,
)

MAX_LINE_CHARACTERS = 65_536
Format = Literal["csv", "jsonl", "clf"]

# The first name is ours, the others are those of public traces (Azure LLM, Azure Functions 2021,
# BurstGPT) and of common logs. Compared in lower case, without spaces and underscores.
_TIME = ("time", "timestamp", "arrival", "ts")
_END = ("end_timestamp",)
_MODEL = ("model", "app", "func", "name")
_INPUT = ("input_tokens", "context_tokens", "prompt_tokens", "request_tokens")
_OUTPUT = ("output_tokens", "generated_tokens", "completion_tokens", "response_tokens")
_DURATION = ("duration_s", "service_s", "duration")

_CLF = re.compile(
    r'\S+ \S+ \S+ \[([^\]]+)\] "(\S+) (\S+)(?: [^"]*)?" (\d{3}) (?:\d+|-)(?: ?"[^"]*")*'
    r"(?: (\d+(?:\.\d+)?))?\s*"
)
_MODEL_PATH = re.compile(r"/models/([^/?]+)/v1/")
_OPENAI_PATH = re.compile(r"/v1/(?:chat/)?completions")
_CLF_TIME = "%d/%b/%Y:%H:%M:%S %z"


def read_trace(
    lines: Iterable[str],
    form: Format,
    *,
    service: ServiceModel | None = None,
    default_model: str = "model",
    max_requests: int = MAX_REQUESTS,
    max_models: int = MAX_MODELS,
) -> Trace:
    """The trace in *lines*, read once and never held as text.

    Raises TraceError with the line's number, or if there is no request or too many.
    """
    builder = TraceBuilder(max_requests, max_models)
    service = service or ServiceModel()
    numbered = _bounded(lines)
    if form == "clf":
        _read_clf(numbered, builder, default_model)
    else:
        rows = _csv_rows(numbered) if form == "csv" else _json_rows(numbered)
        for number, row in rows:
            _at(number, _add_row, row, builder, service, default_model)
    return builder.build()


def _bounded(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise TraceError(f"longer than {MAX_LINE_CHARACTERS} characters", number)
        if line.strip():
            yield number, line


def _at(number: int, act: Callable[..., None], *arguments: Any) -> None:
    """Call *act*; what it raises gets the number of the line."""
    try:
        act(*arguments)
    except TraceError as error:
        raise TraceError(str(error), number) from None


def _csv_rows(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number, first = next(lines, (1, ""))
    header = [_canonical(name) for name in next(csv.reader([first]), [])]
    if not _known(header, (*_TIME, *_END)):
        raise TraceError(f"no column of time: one of {', '.join((*_TIME, *_END))}", number)
    for number, line in lines:
        values = next(csv.reader([line]))
        if len(values) != len(header):
            raise TraceError(f"{len(values)} values for {len(header)} columns", number)
        yield number, dict(zip(header, values, strict=True))


def _json_rows(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"not JSON: {error}", number) from None
        if not isinstance(row, dict):
            raise TraceError("not a JSON object", number)
        yield number, {_canonical(key): value for key, value in row.items()}


def _add_row(
    row: Mapping[str, Any], builder: TraceBuilder, service: ServiceModel, default_model: str
) -> None:
    inputs = _number(row, _INPUT)
    first_s = service.first_token_s(inputs or 0.0)
    duration_s = _number(row, _DURATION)
    if duration_s is None:
        duration_s = service.service_s(inputs or 0.0, _number(row, _OUTPUT) or 0.0)
    began = _value(row, _TIME)
    if began is None:
        at_us = _time_us(_value(row, _END)) - round(duration_s * US_PER_S)
    else:
        at_us = _time_us(began)
    model = _value(row, _MODEL)
    name = default_model if model is None else str(model)
    builder.add(at_us, name, min(first_s, duration_s), duration_s)


def _read_clf(lines: Iterator[tuple[int, str]], builder: TraceBuilder, default_model: str) -> None:
    """POSTs to the models' endpoints that were let in: what wakes a model, and nothing else."""
    for number, line in lines:
        match = _CLF.fullmatch(line)
        if match is None:
            raise TraceError('not Common Log Format: host ident user [time] "request" …', number)
        time, method, path, status, duration = match.groups()
        named = _MODEL_PATH.search(path)
        if method != "POST" or status in ("401", "403", "404", "405"):
            continue
        if named is None and _OPENAI_PATH.search(path) is None:
            continue
        try:
            at_us = round(datetime.strptime(time, _CLF_TIME).timestamp() * US_PER_S)
        except ValueError:
            raise TraceError(f"{time!r} is no time: 10/Oct/2000:13:55:36 -0700", number) from None
        name = default_model if named is None else named[1]
        _at(number, builder.add, at_us, name, 0.0, float(duration or 1.0))


def _canonical(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _known(header: list[str], names: Iterable[str]) -> bool:
    return any(_canonical(name) in header for name in names)


def _value(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        value = row.get(name.replace("_", ""))
        if value is not None and value != "":
            return value
    return None


def _number(row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    value = _value(row, names)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TraceError(f"{names[0]}: {value!r} is not a number") from None
    if not 0 <= number < math.inf:
        raise TraceError(f"{names[0]}: {value!r} is negative or not finite")
    return number


def _time_us(value: Any) -> int:
    """Unix seconds, or ISO 8601 (UTC if it names no zone)."""
    if isinstance(value, int | float) or _is_number(value):
        seconds = float(value)
        if not 0 <= seconds < 1e11:
            raise TraceError(f"time: {value!r} is not a time in seconds")
        return round(seconds * US_PER_S)
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        raise TraceError(f"time: {value!r} is neither seconds nor ISO 8601") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return round(parsed.timestamp() * US_PER_S)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
