"""A model's autoscaling settings. Names are Ray Serve's where they mean the same."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pilotlight_autoscaler.cold_start_slo import ColdStartSlo
from pilotlight_autoscaler.duration import MAX_DURATION_S, AutoSeconds, Seconds
from pilotlight_autoscaler.schedule import Floor

# Far above what anybody needs; arithmetic on what is stored must never overflow.
MAX_REPLICAS = 10_000
MAX_REQUESTS = 1_000_000
MAX_FLOORS = 32


class KeepAliveConfig(BaseModel):
    """How long an idle replica may stay where ``idle_timeout_s`` is auto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_s: Seconds = Field(10.0, ge=0, le=MAX_DURATION_S, description="Stay at least this long.")
    max_s: Seconds = Field(3600.0, ge=0, le=MAX_DURATION_S, description="Stay at most this long.")
    cold_start_weight: float = Field(
        30.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Worker-seconds worth spending to save a request one second of waiting.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s ({self.min_s:g}) is above max_s ({self.max_s:g})")
        return self


class PrewarmConfig(BaseModel):
    """When a replica may start before anybody asks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Start a replica when its next request is due.")
    min_observations: int = Field(8, ge=1, le=10_000, description="Idle gaps to have seen before.")
    min_hit_rate: float = Field(
        0.3, ge=0, le=1, description="Share of the past forecasts that came true, at least."
    )
    on_deploy: bool = Field(
        False, description="Start one replica when a revision goes live, which measures its start."
    )


class PanicConfig(BaseModel):
    """How load is averaged, and when a sudden rise overrides the average."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_s: Seconds = Field(6.0, ge=1, le=3600, description="Window that sees a sudden rise.")
    stable_window_s: Seconds = Field(60.0, ge=2, le=3600, description="Window of the usual load.")
    threshold: float = Field(
        2.0, gt=1, le=1000, description="Panic at this many times the replicas there are."
    )
    queue_slo_s: Seconds = Field(
        10.0, gt=0, le=MAX_DURATION_S, description="Panic when a request has waited this long."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.window_s >= self.stable_window_s:
            raise ValueError(
                f"window_s ({self.window_s:g}) must be below "
                f"stable_window_s ({self.stable_window_s:g})"
            )
        return self


class PlacementConfig(BaseModel):
    """Which worker a replica goes to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefer: Literal["startup_time"] = Field(
        "startup_time", description="The worker on which it is ready soonest; there is no other."
    )
    spread: bool = Field(
        False, description="Before that, a node that has the fewest replicas of the model."
    )


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
    idle_timeout_s: AutoSeconds = Field(
        None,
        validate_default=False,
        description="The last idle replica is detached after this long. Seconds, '10m', or auto: "
        "as long as keeping it costs less than the cold starts it saves.",
    )
    cold_start_timeout_s: Seconds = Field(
        120.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long a request waits for a replica before it gets a 503.",
    )
    upscale_delay_s: Seconds = Field(
        0.0,
        ge=0,
        le=MAX_DURATION_S,
        description="How long the load must have asked for more replicas than there are before "
        "another one starts; while none is ready there is no delay.",
    )
    upscaling_factor: float = Field(
        1.0,
        gt=0,
        le=MAX_REPLICAS,
        allow_inf_nan=False,
        description="Of the replicas that the load asks for beyond the ready ones, the multiple "
        "that starts at once; while none is ready all of them do.",
    )
    downscale_delay_s: AutoSeconds = Field(
        None,
        validate_default=False,
        description="A replica beyond the first that is not needed leaves after this long; "
        "auto: idle_timeout_s, or the break-even of a cold start.",
    )
    downscaling_factor: float = Field(
        0.5, gt=0, le=1, description="Share of the replicas that may leave in one step."
    )
    keep_alive: KeepAliveConfig = Field(
        default_factory=KeepAliveConfig, description="Bounds of an automatic idle_timeout_s."
    )
    prewarm: PrewarmConfig = Field(
        default_factory=PrewarmConfig, description="Replicas ahead of requests."
    )
    panic: PanicConfig = Field(default_factory=PanicConfig, description="Averages of the load.")
    schedule: tuple[Floor, ...] = Field(
        (), max_length=MAX_FLOORS, description="Times at which min_replicas is higher."
    )
    placement: PlacementConfig = Field(
        default_factory=PlacementConfig, description="Which worker a replica goes to."
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Under scarcity, each step doubles what waiting costs."
    )
    cold_start_slo: ColdStartSlo | None = Field(
        None, description="What a cold start may take, for `pilotlight plan`."
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
        for floor in self.schedule:
            if floor.min_replicas > self.max_replicas:
                raise ValueError(
                    f"schedule's min_replicas ({floor.min_replicas}) is above "
                    f"max_replicas ({self.max_replicas})"
                )
        self._check_keep_alive()
        return self

    def _check_keep_alive(self) -> None:
        # Compared with the defaults, not with what was written: a stored config names every field.
        if self.idle_timeout_s is not None and self.keep_alive != KeepAliveConfig():
            raise ValueError("keep_alive bounds an automatic idle_timeout_s: leave one of them out")
        if self.min_replicas == self.max_replicas:
            without_effect = {
                "keep_alive": self.keep_alive != KeepAliveConfig(),
                "prewarm": self.prewarm != PrewarmConfig(),
            }
            for name, is_set in without_effect.items():
                if is_set:
                    raise ValueError(
                        f"{name} has no effect where min_replicas and max_replicas are equal: "
                        "leave it out"
                    )

    @property
    def target(self) -> float:
        """Ongoing requests per replica to aim for, resolved; at least 1 unless set lower."""
        if self.target_ongoing_requests is not None:
            return self.target_ongoing_requests
        return max(1.0, 0.7 * self.max_ongoing_requests)
