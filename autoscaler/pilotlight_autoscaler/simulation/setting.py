"""The simulated platform as the user describes it: machines, models, prices, delays."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.snapshot import Tier

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedModel(_Frozen):
    """What the simulator knows of a model beside its requests."""

    name: str
    nbytes: int = Field(gt=0)
    config: AutoscalingConfig = AutoscalingConfig()
    cold_start_s: Positive = 1.0  # the policy's prior; the measured ones replace it


class Links(_Frozen):
    """What a node's loads share, by tier, and what each attach takes beside its bytes."""

    host_bytes_per_s: Positive = 10e9
    disk_bytes_per_s: Positive = 2e9
    remote_bytes_per_s: Positive = 0.5e9
    attach_s: NotNegative = 0.0

    def bytes_per_s(self, tier: Tier) -> float:
        if tier is Tier.HOST:
            return self.host_bytes_per_s
        return self.disk_bytes_per_s if tier is Tier.DISK else self.remote_bytes_per_s


class Pool(_Frozen):
    """Nodes with equal workers; elastic: the policy's pool target is followed."""

    nodes: int = Field(1, ge=1, le=10_000)
    workers_per_node: int = Field(1, ge=1, le=1000)
    capacity_bytes: int = Field(80_000_000_000, gt=0)  # of one worker
    max_replicas: int = Field(1, ge=1, le=1000)  # of one worker
    host_cache_bytes: int = Field(0, ge=0)  # of one node
    on_disk: bool = True  # every model at the start, on every node
    links: Links = Links()
    elastic: bool = False
    worker_start_s: NotNegative = 1.0


class Prices(_Frozen):
    """What a worker's second and a waiting request's second cost, in worker-seconds and money."""

    cold_start_weight: NotNegative = 30.0  # worker-seconds one request-second of waiting is worth
    worker_usd_per_hour: NotNegative = 2.0


class Setting(_Frozen):
    """One simulated platform.

    *metric_delay_s* passes before the policy learns of a request; *tick_s* before changes that are
    not urgent reach it; *load_report_s* before changes of the load of busy replicas do.
    """

    models: tuple[SimulatedModel, ...] = Field(min_length=1)
    pool: Pool = Pool()
    prices: Prices = Prices()
    seed: int = Field(0, ge=0)
    load_noise: NotNegative = 0.15  # sigma of the lognormal factor on load times; its mean is 1
    tick_s: Positive = 0.1
    load_report_s: Positive = 1.0
    metric_delay_s: NotNegative = 0.0

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name")
        if self.load_report_s < self.tick_s:
            raise ValueError(
                f"load_report_s ({self.load_report_s:g}) is below tick_s ({self.tick_s:g})"
            )
        return self
