"""Cold starts as they were foretold, and as they went."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from pilotlight_autoscaler.cold_start_slo import ColdStartSlo
from pilotlight_autoscaler.first_tokens import Seen
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_autoscaler.snapshot import Tier


@dataclass(frozen=True, slots=True)
class ColdAnswer:
    """A cold start that has given its first token, as a gateway tells the scheduler of it."""

    model: str
    revision_id: str
    tier: Tier
    seconds: float  # from the request's arrival to its first token
    spans: dict[str, float] = field(default_factory=dict)  # seconds by name


class ForetoldOn(BaseModel):
    """The machine that a prediction is of: its name, and what its links were measured to give."""

    model_config = ConfigDict(frozen=True)

    machine: str = ""  # not known: foretold by an older version
    bytes_per_s: dict[Tier, float] = {}


class ColdStartStatus(BaseModel):
    """What a model's cold starts were to take when it was deployed, and what they took since."""

    slo: ColdStartSlo | None
    predicted: dict[Tier, Quantiles]  # seconds; of the deploy, empty for one by an older version
    actual: dict[Tier, Seen]  # of this revision; the newest 64 of each tier
    all: Seen | None  # whatever the tier; None: none yet
    slo_met: bool | None  # None: no SLO, or no cold start yet
