"""Durations as users write them: seconds, or a number with its unit."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Far above what anybody needs; arithmetic on what is stored must never overflow.
MAX_DURATION_S = 365 * 86400.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration_s(value: Any) -> Any:
    """Turn ``"10m"`` into 600.0; numbers pass through for pydantic to check."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration: write seconds (90) or '500ms', '90s', '10m', '2h'"
        )
    return float(match[1]) * _UNITS_S[match[2]]


def _parse_auto(value: Any) -> Any:
    if value is None:
        raise ValueError("write 'auto', seconds (90) or '500ms', '90s', '10m', '2h', not nothing")
    return None if value == "auto" else parse_duration_s(value)


def _write_auto(value: float | None) -> float | str:
    return "auto" if value is None else value


Seconds = Annotated[
    float,
    BeforeValidator(parse_duration_s, json_schema_input_type=float | str),
    Field(allow_inf_nan=False),
]

# ``None`` stands for "auto": one type, so that a wrong value has one message.
AutoSeconds = Annotated[
    Annotated[float, Field(ge=0, le=MAX_DURATION_S, allow_inf_nan=False)] | None,
    BeforeValidator(_parse_auto, json_schema_input_type=float | str),
    PlainSerializer(_write_auto, return_type=float | str),
]
