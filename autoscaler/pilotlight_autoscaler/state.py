"""What is learned, as it is saved: JSON, versioned, bounded, and refused by name if damaged."""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pilotlight_autoscaler.cold_starts import SAMPLES
from pilotlight_autoscaler.errors import StateError
from pilotlight_autoscaler.first_tokens import MAX_SPANS, SPAN_SAMPLES
from pilotlight_autoscaler.first_tokens import SAMPLES as FIRST_TOKENS
from pilotlight_autoscaler.gaps import BINS
from pilotlight_autoscaler.old_state import upgraded
from pilotlight_autoscaler.snapshot import Tier
from pilotlight_autoscaler.windows import BUCKETS

MAX_MODELS = 100_000
_MAX_POINTS = 10_001  # one for each number of replicas

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Weight = Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]
_Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GapsState(_State):
    """Idle gaps by bin, in units of the newest one's weight."""

    observed: _Count = 0
    unit: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)] = 1.0
    counts: dict[Annotated[int, Field(ge=0, le=BINS)], _Amount] = {}


class ColdStartsState(_State):
    """The newest measured cold starts by tier, in seconds, and the mean of many."""

    samples: dict[Tier, Annotated[list[_Amount], Field(max_length=SAMPLES)]] = {}
    latest: Tier | None = None
    means: dict[Tier, tuple[_Weight, _Amount]] = {}  # weight of all, mean
    nbytes: _Count = 0  # of the weights; 0: not known


_Spans = Annotated[
    dict[
        Annotated[str, Field(max_length=32)],
        Annotated[list[_Amount], Field(max_length=SPAN_SAMPLES)],
    ],
    Field(max_length=MAX_SPANS),
]


class FirstTokensState(_State):
    """Whole cold starts of one revision by tier: how many, the newest, those of each span."""

    revision_id: Annotated[str, Field(max_length=256)] = ""
    tiers: dict[
        Tier, tuple[_Count, Annotated[list[_Amount], Field(max_length=FIRST_TOKENS)], _Spans]
    ] = {}


class BurstState(_State):
    """The burst factor, and the burst that is being counted."""

    k: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)] = 1.0
    began_s: _Amount | None = None
    waiting: _Amount = 0.0


class LoadState(_State):
    """The load of the last window, and the replicas it wanted in the last while."""

    window_s: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] = 60.0
    buckets: Annotated[list[tuple[_Count, _Amount]], Field(max_length=BUCKETS + 2)] = []
    load: _Amount = 0.0
    since_s: _Amount | None = None
    seen_s: _Amount = 0.0
    changed_s: _Amount = 0.0
    peak: Annotated[list[tuple[_Amount, _Count]], Field(max_length=_MAX_POINTS)] = []


class PanicState(_State):
    """Until when it lasts, and the replicas that it holds."""

    until_s: _Amount = 0.0
    replicas: _Count = 0


class PrewarmState(_State):
    """How forecasts have done, and the one that is being carried out."""

    hit_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    until_s: _Amount | None = None
    retry_s: _Amount = 0.0
    first_due: bool = False


class GuardState(_State):
    """Cold starts that forecasts have lost to the break-even, which reigns if active."""

    lost: Annotated[float, Field(ge=-10, le=10)] = 0.0
    active: bool = False


class StepState(_State):
    """The last step down."""

    at_s: _Amount = 0.0
    floor: _Count = 0


class ModelState(_State):
    """One model."""

    gaps: GapsState = GapsState()
    cold_starts: ColdStartsState = ColdStartsState()
    first_tokens: FirstTokensState = FirstTokensState()
    burst: BurstState = BurstState()
    load: LoadState = LoadState()
    panic: PanicState = PanicState()
    prewarm: PrewarmState = PrewarmState()
    guard: GuardState = GuardState()
    step: StepState = StepState()
    service_s: _Amount = 0.0
    idle_since_s: _Amount | None = None
    granted: _Count = 0
    rising_since_s: _Amount | None = None
    rule: Annotated[str, Field(max_length=32)] = ""


class PoolState(_State):
    """The workers that were wanted in the last while, and the last answer."""

    peak: Annotated[list[tuple[_Amount, _Count]], Field(max_length=_MAX_POINTS)] = []
    target: _Count | None = None
    worker_bytes: _Count = 0  # capacity of the largest worker that was seen


class PolicyState(_State):
    """All that a policy remembers."""

    version: Literal[2] = 2  # 1 had other bins of gaps
    decided_s: _Amount = 0.0  # time does not go back behind this
    models: Annotated[dict[str, ModelState], Field(max_length=MAX_MODELS)] = {}
    pool: PoolState = PoolState()

    def without_times(self) -> PolicyState:
        """The same without what was measured in seconds of a machine: starts and requests."""
        untimed = {
            "cold_starts": ColdStartsState(),
            "first_tokens": FirstTokensState(),
            "service_s": 0.0,
        }
        models = {name: each.model_copy(update=untimed) for name, each in self.models.items()}
        return self.model_copy(update={"models": models})

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"version": self.version}

    @classmethod
    def from_json(cls, values: object) -> PolicyState:
        """What this or the version before has saved.

        Raises StateError naming the first place that is wrong.
        """
        try:
            return cls.model_validate(upgraded(values))
        except ValidationError as error:
            raise _refusal(error) from error

    @classmethod
    def salvaged(cls, values: object) -> tuple[PolicyState, list[str]]:
        """As ``from_json``, without the fields of models, or of the pool, that are wrong.

        Also returns where they are wrong. Raises StateError where nothing can be told apart.
        """
        values = upgraded(values)
        try:
            return cls.model_validate(values), []
        except ValidationError as error:
            kept, wrong = deepcopy(values), error.errors(include_url=False)
            if not all(_drop(kept, each["loc"]) for each in wrong):
                raise _refusal(error) from error
        return cls.from_json(kept), [_place(each) for each in wrong]


def _drop(values: object, place: tuple[str | int, ...]) -> bool:
    """Take out a model's field, a model that is none, or what belongs to none; whether that went.

    Not the version, the time, or all models at once: without them the rest means nothing.
    """
    if not isinstance(values, dict) or not place or place[0] in ("version", "decided_s"):
        return False
    if place[0] != "models":
        values.pop(place[0], None)
        return True
    models = values.get("models")
    if len(place) < 2 or not isinstance(models, dict):
        return False
    model = models.get(place[1])
    if isinstance(model, dict) and len(place) > 2:
        model.pop(place[2], None)
    else:
        models.pop(place[1], None)
    return True


def _refusal(error: ValidationError) -> StateError:
    first = error.errors(include_url=False)[0]
    return StateError(
        f"saved autoscaler state: {_place(first)}; without it everything is learned again"
    )


def _place(wrong: ErrorDetails) -> str:
    where = ".".join(str(part) for part in wrong["loc"])
    return f"{where or 'all of it'}: {wrong['msg']}"
