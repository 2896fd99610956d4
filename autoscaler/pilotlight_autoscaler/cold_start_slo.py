"""What a cold start may take, as users write it."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pilotlight_autoscaler.duration import MAX_DURATION_S, Seconds
from pilotlight_autoscaler.quantiles import Quantiles


class ColdStartSlo(BaseModel):
    """What a cold start may take; `pilotlight plan` looks for settings that keep it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p50: Seconds | None = Field(
        None, gt=0, le=MAX_DURATION_S, description="Of 100 cold starts, 50 are faster."
    )
    p95: Seconds | None = Field(
        None, gt=0, le=MAX_DURATION_S, description="Of 100 cold starts, 95 are faster."
    )
    p99: Seconds | None = Field(
        None, gt=0, le=MAX_DURATION_S, description="Of 100 cold starts, 99 are faster."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        bounds = self.bounds()
        if not bounds:
            raise ValueError("name a bound, as in {p95: 300ms}: p50, p95 or p99")
        for (low, low_s), (high, high_s) in pairwise(bounds.items()):
            if low_s > high_s:
                raise ValueError(f"{low} ({low_s:g} s) is above {high} ({high_s:g} s)")
        return self

    def bounds(self) -> dict[str, float]:
        """Seconds by name, of those that are set, the lowest share first."""
        bounds = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        return {name: seconds for name, seconds in bounds.items() if seconds is not None}

    def met_by(self, seconds: Quantiles) -> bool:
        """Whether cold starts like these keep every bound."""
        return all(getattr(seconds, name) <= bound for name, bound in self.bounds().items())
