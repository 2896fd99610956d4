"""Tables of models, workers and runs. Pure: values in, renderables out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pilotlight_autoscaler import Tier
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import count, duration, size
from pilotlight_deploy.render.waterfall import summary
from pilotlight_platform.schemas.cold_start import ColdStartStatus
from pilotlight_platform.schemas.model import (
    DeployLive,
    ModelState,
    ModelStatus,
    PlatformStatus,
    Revision,
    WorkerStatus,
)
from pilotlight_platform.schemas.timeline import Timeline

_STATE_STYLES: dict[ModelState, str] = {
    "zero": "blue",
    "attaching": "yellow",
    "ready": "green",
    "failed": "red",
}


def models_table(models: Sequence[ModelStatus]) -> RenderableType:
    if not models:
        return Text("no models: deploy one with `pilotlight deploy CHECKPOINT --name NAME`")
    table = _table("model", "state", "replicas", "ongoing", "queued", "weights", "dtype")
    for model in models:
        revision = model.record.revision
        table.add_row(
            Text(model.name),
            _state(model.state),
            Text(f"{_ready(model)} of {model.record.spec.autoscaling.max_replicas}"),
            Text(str(sum(replica.ongoing for replica in model.replicas))),
            Text(str(model.queued)),
            Text(size(revision.nbytes)),
            Text(_weights_type(revision)),
        )
    return table


def model_details(model: ModelStatus) -> RenderableType:
    revision, scaling = model.record.revision, model.record.spec.autoscaling
    rows: list[tuple[str, str | Text]] = [
        ("model", model.name),
        ("state", _state(model.state)),
        ("revision", revision.id + (f" ({printable(revision.label)})" if revision.label else "")),
        ("source", printable(revision.source)),
        ("kind", f"{revision.architecture}, {count(revision.parameters)} parameters"),
        ("weights", f"{size(revision.nbytes)} {_weights_type(revision)}"),
        *_rounding(revision),
        ("context", f"{revision.context_length} tokens"),
        ("replicas", f"{_ready(model)}, {scaling.min_replicas} to {scaling.max_replicas}"),
        ("idle after", _idle_after(scaling.idle_timeout_s)),
        ("queued", str(model.queued)),
    ]
    rows += [
        (f"replica on {replica.worker_id}", f"{replica.phase}, {replica.ongoing} ongoing")
        for replica in model.replicas
    ]
    rows += _cold_starts(model.cold_starts)
    if model.last_error:
        rows.append(("last error", Text(printable(model.last_error), style="red")))
    return _pairs(rows)


def _cold_starts(status: ColdStartStatus | None) -> list[tuple[str, str | Text]]:
    """Foretold and seen beside each other, by tier; then whether the SLO is met."""
    if status is None:
        return []
    rows: list[tuple[str, str | Text]] = []
    for tier in [each for each in Tier if each in {*status.predicted, *status.actual}]:
        predicted, seen = status.predicted.get(tier), status.actual.get(tier)
        foretold = "-" if predicted is None else _quantiles(predicted)
        actual = "none yet" if seen is None else f"{_quantiles(seen.seconds)} of {seen.count}"
        rows.append((f"cold from {tier}", f"predicted {foretold}; actual {actual}"))
    if status.slo is not None:
        bounds = ", ".join(f"{name} {duration(s)}" for name, s in status.slo.bounds().items())
        verdict, style = {
            True: ("met", "green"),
            False: ("missed", "red"),
            None: ("no cold start yet", ""),
        }[status.slo_met]
        rows.append(("cold start SLO", Text(f"{bounds}: {verdict}", style=style)))
    return rows


def _quantiles(seconds: Quantiles) -> str:
    return f"p50 {duration(seconds.p50)}, p95 {duration(seconds.p95)}"


def status_tables(status: PlatformStatus, url: str) -> RenderableType:
    head = Text(f"{url} · Pilotlight {status.version} · up {_uptime(status.uptime_s)}\n")
    return Group(head, _workers_table(status.workers), Text(), models_table(status.models))


def deployed(live: DeployLive) -> RenderableType:
    revision = live.model.record.revision
    made = "already baked" if live.reused else "baked"
    return Text(
        f"{live.model.name} is live: {revision.architecture}, {count(revision.parameters)} "
        f"parameters, {size(revision.nbytes)} {_weights_type(revision)}, {made}"
    )


def runs_table(runs: Iterable[tuple[str, Timeline]]) -> RenderableType:
    """Labelled requests beside each other."""
    table = _table("request", "first token", "tokens", "steps")
    for label, timeline in runs:
        ttft = "-" if timeline.ttft_s is None else duration(timeline.ttft_s)
        steps = summary(timeline).partition(": ")[2]
        table.add_row(Text(label), Text(ttft), Text(str(timeline.completion_tokens)), Text(steps))
    return table


def _workers_table(workers: Sequence[WorkerStatus]) -> RenderableType:
    if not workers:
        return Text("no worker is warm yet")
    table = _table("worker", "pid", "threads", "room for weights", "attached")
    for worker in workers:
        table.add_row(
            Text(worker.worker_id),
            Text(str(worker.pid)),
            Text(str(worker.threads)),
            Text(size(worker.capacity_bytes)),
            Text((", ".join(worker.attached) or "-") + (" (leaving)" if worker.leaving else "")),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, Text(value) if isinstance(value, str) else value)
    return table


def _ready(model: ModelStatus) -> int:
    return sum(replica.phase == "ready" for replica in model.replicas)


def _weights_type(revision: Revision) -> str:
    """``bfloat16``, ``int4 (bfloat16)``: what is stored, and what is computed with; where codes
    are the source's own, ``int4 (gptq, bfloat16)``."""
    if revision.quantization == "none":
        return revision.dtype
    kind, _, method = revision.quantization.removesuffix(")").partition(" (")
    return f"{kind} ({method}, {revision.dtype})" if method else f"{kind} ({revision.dtype})"


def _rounding(revision: Revision) -> list[tuple[str, str | Text]]:
    made = {"gptq": "by gptq", "nearest": "to the nearest"}
    return [] if revision.rounding is None else [("rounded", made[revision.rounding])]


def _state(state: ModelState) -> Text:
    return Text(state, style=_STATE_STYLES[state])


def _uptime(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _idle_after(seconds: float | None) -> str:
    return "as long as it pays" if seconds is None else f"{seconds:g} s"
