"""What `pilotlight simulate` runs: files in, one result per policy and value out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.comparing import optimum_s, simulate
from pilotlight_autoscaler.simulation.errors import SimulationError
from pilotlight_autoscaler.simulation.fleet import cold_starts_s, make_setting
from pilotlight_autoscaler.simulation.policies import check_policy
from pilotlight_autoscaler.simulation.readers import Format, read_trace
from pilotlight_autoscaler.simulation.result import Result
from pilotlight_autoscaler.simulation.setting import Pool, Prices
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".log": "clf",
}
_DAY_US = 86_400 * US_PER_S
_SHORT = {"cold_start_weight": "keep_alive.cold_start_weight"}
_CONFIG: dict[str, Any] = {"max_ongoing_requests": 32}

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate."""

    policies: tuple[str, ...]
    sweep: tuple[str, tuple[str, ...]] | None = None
    seed: int = 0
    cold_start_s: float | None = None  # of every model; else drawn
    workers: int | None = None  # None: room for every model
    prices: Prices = field(default_factory=Prices)


def load_trace(path: Path, days: float | None) -> Trace:
    """The access log *path*, or its first *days*. Raises CliError."""
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        known = ", ".join(_FORMATS)
        raise CliError(f"{path}: no known kind of trace: {known}", ExitCode.BAD_INPUT)
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as lines:
            trace = read_trace(lines, form, default_model=path.stem)
    except SimulationError as error:
        raise CliError(f"{path}: {error}", ExitCode.BAD_INPUT) from error
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", ExitCode.BAD_INPUT) from error
    return trace if days is None else trace.first(round(days * _DAY_US))


def synthetic_trace(kind: Literal["azure"], models: int, days: float, seed: int) -> Trace:
    """A synthetic trace; its hot models are cut to 10,000 requests a day."""
    return azure_trace(Traffic(models=models, days=days, seed=seed, max_daily_requests=10_000))


def parse_sweep(text: str) -> tuple[str, tuple[str, ...]]:
    """``idle_timeout_s=60,10m``. Raises CliError."""
    name, _, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not name or not found:
        raise CliError(f"--sweep {text}: write PARAM=V1,V2", ExitCode.USAGE)
    return name.strip(), found


def run(trace: Trace, plan: Plan, on_progress: OnProgress) -> list[Result]:
    """Every policy with every value of the sweep. Raises CliError."""
    try:
        for policy in plan.policies:
            check_policy(policy)
        return [
            _run_one(trace, plan, policy, value, on_progress)
            for policy in plan.policies
            for value in (plan.sweep[1] if plan.sweep else (None,))
        ]
    except SimulationError as error:
        raise CliError(str(error), ExitCode.BAD_INPUT) from error


def _run_one(
    trace: Trace, plan: Plan, policy: str, value: str | None, on_progress: OnProgress
) -> Result:
    label, workers, settings = policy, plan.workers, dict(_CONFIG)
    if plan.sweep is not None and value is not None:
        name = plan.sweep[0]
        label = f"{policy} {name}={value}"
        if name == "workers":
            workers = _whole(value)
        else:
            _put(settings, _SHORT.get(name, name), value)
    config = _config(settings)
    if plan.cold_start_s is None:
        starts_s: Sequence[float] = cold_starts_s(trace.names, plan.seed)
    else:
        starts_s = [plan.cold_start_s] * len(trace.names)
    setting = make_setting(
        trace,
        starts_s,
        config=config,
        pool=None if workers is None else Pool(nodes=workers),
        prices=plan.prices,
        seed=plan.seed,
    )
    bound_s = optimum_s(trace, setting) if workers is None and config.max_replicas == 1 else None
    on_progress(label, 0.0)
    return simulate(
        trace,
        setting,
        policy,
        label=label,
        optimum_s=bound_s,
        on_progress=lambda part: on_progress(label, part),
    )


def _config(settings: dict[str, Any]) -> AutoscalingConfig:
    try:
        return AutoscalingConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise CliError(f"--sweep {place}: {problem['msg']}", ExitCode.USAGE) from error


def _put(settings: dict[str, Any], name: str, value: str) -> None:
    *outer, last = name.split(".")
    for part in outer:
        settings = settings.setdefault(part, {})
    try:
        settings[last] = float(value)
    except ValueError:
        settings[last] = value  # "10m", "auto"


def _whole(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 10_000:
        raise CliError(f"--sweep workers={value}: write 1 to 10000", ExitCode.USAGE)
    return int(value)
