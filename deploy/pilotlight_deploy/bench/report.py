"""The frame of every `pilotlight bench`: one object with figures, goals and where they hold."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue
from rich.table import Table
from rich.text import Text

from pilotlight_deploy.machine import Machine, read_machine, versions

_PACKAGES = (
    *("pilotlight", "torch", "ray", "transformers", "safetensors"),
    *("boto3", "llvmlite", "runai-model-streamer", "llama-cpp-python"),
)

Better = Literal["lower", "higher"]


class Figure(BaseModel):
    """One measured value: the median of *n* runs, or what the id says, and their extremes."""

    model_config = ConfigDict(frozen=True)

    id: str
    value: FiniteFloat
    unit: str
    goal: FiniteFloat | None
    better: Better
    min: FiniteFloat
    max: FiniteFloat
    n: int = Field(ge=1)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


class BenchReport(BaseModel):
    """What `pilotlight bench NAME --json` prints."""

    model_config = ConfigDict(frozen=True)

    bench: str
    at: datetime
    machine: Machine
    versions: dict[str, str | None]
    command: str
    figures: tuple[Figure, ...]
    cases: tuple[dict[str, JsonValue], ...] = ()


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    better: Better = "lower",
    goal: float | None = None,
) -> Figure:
    """The figure of *samples*. Raises ValueError if there are none, or one is not finite."""
    if not samples:
        raise ValueError(f"{name}: no samples")
    return Figure(
        id=name,
        value=statistics.median(samples),
        unit=unit,
        goal=goal,
        better=better,
        min=min(samples),
        max=max(samples),
        n=len(samples),
    )


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that *percent* of them do not exceed (nearest rank). Not of none."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def percentile_figure(
    name: str, samples: Sequence[float], percent: int, unit: str, *, goal: float | None = None
) -> Figure:
    """As `figure`, with a percentile for its value."""
    measured = figure(name, samples, unit, goal=goal)
    return measured.model_copy(update={"value": percentile(samples, percent)})


def make_report(
    bench: str,
    figures: Sequence[Figure],
    cases: Sequence[dict[str, Any]] = (),
    *,
    arguments: Sequence[str],
    at: datetime | None = None,
) -> BenchReport:
    """The report of *figures* on this machine; *arguments* are those of `pilotlight`.

    Raises pydantic.ValidationError if a case holds what JSON cannot.
    """
    return BenchReport(
        bench=bench,
        at=at or datetime.now(UTC),
        machine=read_machine(),
        versions=versions(_PACKAGES),
        command=shlex.join(["pilotlight", *arguments]),
        figures=tuple(figures),
        cases=tuple(cases),
    )


def report_table(report: BenchReport) -> Table:
    """Figures, their spread, and whether each goal is met."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("figure", "value", "min … max", "n", "goal", ""):
        table.add_column(column, overflow="fold")
    for item in report.figures:
        goal = "" if item.goal is None else f"{_sign(item)} {item.goal:g} {item.unit}"
        table.add_row(
            Text(item.id),
            Text(f"{item.value:.4g} {item.unit}"),
            Text(f"{item.min:.4g} … {item.max:.4g}"),
            Text(str(item.n)),
            Text(goal),
            _verdict(item.met),
        )
    return table


def _sign(item: Figure) -> str:
    return "≤" if item.better == "lower" else "≥"


def _verdict(met: bool | None) -> Text:
    if met is None:
        return Text("")
    return Text("met", style="green") if met else Text("missed", style="red")
