"""A model's autoscaling settings. Names are Ray Serve's where they mean the same."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Far above what anybody needs; arithmetic on what is stored must never overflow.
MAX_REPLICAS = 10_000
MAX_REQUESTS = 1_000_000
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


Seconds = Annotated[
    float,
    BeforeValidator(parse_duration_s, json_schema_input_type=float | str),
    Field(allow_inf_nan=False),
]


class AutoscalingConfig(BaseModel):
    """How many replicas a model may have, how full they get, and how long an idle one stays.

    Raises ``pydantic.ValidationError`` naming the field and the rule it breaks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(0, ge=0, le=MAX_REPLICAS, description="Replicas kept although idle.")
    max_replicas: int = Field(1, ge=1, le=MAX_REPLICAS, description="Replicas at most.")
    max_ongoing_requests: int = Field(
        8, ge=1, le=MAX_REQUESTS, description="Requests that run in one replica at once."
    )
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Ongoing requests per replica to aim for; default 0.7 x max_ongoing_requests.",
    )
    max_queued_requests: int = Field(
        256,
        ge=1,
        le=MAX_REQUESTS,
        description="Requests that wait for a replica; the next one is refused with 429.",
    )
    idle_timeout_s: Seconds = Field(
        60.0,
        ge=0,
        le=MAX_DURATION_S,
        description="An idle replica is detached after this long. Seconds or '10m'.",
    )
    cold_start_timeout_s: Seconds = Field(
        120.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long a request waits for a replica before it gets a 503.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        target = self.target_ongoing_requests
        if target is not None and target > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests ({target:g}) is above "
                f"max_ongoing_requests ({self.max_ongoing_requests})"
            )
        return self

    @property
    def target(self) -> float:
        """Ongoing requests per replica to aim for, resolved; at least 1 unless set lower."""
        if self.target_ongoing_requests is not None:
            return self.target_ongoing_requests
        return max(1.0, 0.7 * self.max_ongoing_requests)
