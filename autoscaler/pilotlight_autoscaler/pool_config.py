"""The pool of worker processes: the `pool:` block of a cluster file."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pilotlight_autoscaler.duration import MAX_DURATION_S, Seconds

MAX_WORKERS = 10_000


class PoolConfig(BaseModel):
    """How many warm workers there may be, and how many of them stand ready for nobody yet.

    Raises ``pydantic.ValidationError`` naming the field and the rule it breaks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_workers: int = Field(0, ge=0, le=MAX_WORKERS, description="Workers kept although idle.")
    max_workers: int = Field(8, ge=1, le=MAX_WORKERS, description="Workers at most.")
    buffer_workers: int = Field(
        1, ge=0, le=MAX_WORKERS, description="Empty warm workers kept while any model is in use."
    )
    idle_timeout_s: Seconds = Field(
        300.0, ge=0, le=MAX_DURATION_S, description="Workers that are not needed leave after this."
    )
    max_prewarm_share: float = Field(
        0.5, ge=0, le=1, description="Share of the pool's bytes that forecasts may fill."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers})"
            )
        if self.buffer_workers > self.max_workers:
            raise ValueError(
                f"buffer_workers ({self.buffer_workers}) is above max_workers ({self.max_workers})"
            )
        return self


class ClusterFile(BaseModel):
    """A cluster file: what all models share."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Pilotlight cluster file")

    version: Literal[1] = Field(1, description="Version of this file's format.")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="The worker processes.")
