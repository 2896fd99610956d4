"""Decisions and scaling settings as text. Pure: values in, renderables out."""

from __future__ import annotations

import time

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import duration
from pilotlight_platform.schemas.decision import Explanation, PoolStatus, ScalingStatus


def explanation_table(explanation: Explanation) -> RenderableType:
    """What was decided, oldest first, then how it stands."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("time", "action", "rule", "why"):
        table.add_column(column, overflow="fold")
    for each in (*explanation.decisions, explanation.now):
        action = "now" if each is explanation.now else each.action
        where = f" (on {each.worker_id})" if each.worker_id else ""
        why = Text(printable(each.reason + where))
        table.add_row(Text(_clock(each.at_s)), Text(action), Text(each.rule), why)
    return table


def scaling_table(status: ScalingStatus) -> RenderableType:
    """The settings with their defaults filled in, then what they come to."""
    now = _pairs()
    measured = ", ".join(f"{tier} {duration(s)}" for tier, s in status.cold_starts_s.items())
    rows = [
        ("target per replica", f"{status.target_ongoing_requests:g}"),
        ("cold start L", f"{duration(status.cold_start_s)} ({measured or 'not measured yet'})"),
        ("waiting together k", f"{status.burst:.2f}"),
        ("a request takes", duration(status.service_s) if status.service_s else "not seen yet"),
        ("break-even T*", duration(status.break_even_s)),
        ("stays idle for", duration(status.keep_s)),
        ("prewarms at", _windows(status)),
        ("idle gaps seen", f"{status.gaps}, forecasts true {status.hit_rate:.0%}"),
        ("floor now", _floor(status)),
    ]
    for label, text in rows:
        now.add_row(label, Text(text))
    return Group(settings_table(status.model, status.config), Text("\nnow\n"), now)


def settings_table(name: str, config: AutoscalingConfig) -> RenderableType:
    """Every setting, defaults filled in."""
    return Group(Text(f"{name}: settings\n"), _settings(config))


def pool_table(pool: PoolConfig) -> RenderableType:
    """The same of a cluster file's pool."""
    return Group(Text("pool: settings\n"), _settings(pool))


def pool_status_table(status: PoolStatus) -> RenderableType:
    """The pool's settings, then how it stands."""
    now = _pairs()
    target = "not decided yet" if status.target is None else f"{status.target} wanted"
    fixed = "; fixed while the platform runs" if status.fixed else ""
    now.add_row("workers", Text(f"{status.workers}, {target}{fixed}"))
    now.add_row("at most, while it runs", Text(f"{status.most_workers}"))
    return Group(pool_table(status.config), Text("\nnow\n"), now)


def _settings(config: BaseModel) -> Table:
    table = _pairs()
    for name, value in _flat(config.model_dump(mode="json")):
        table.add_row(name, Text(printable(value)))
    return table


def _windows(status: ScalingStatus) -> str:
    spans = [f"{duration(w.load_age_s)} to {duration(w.drop_age_s)}" for w in status.prewarm]
    return ", ".join(spans) or "-"


def _floor(status: ScalingStatus) -> str:
    at_s = status.schedule_changes_at_s
    return f"{status.floor}" + ("" if at_s is None else f", may change at {_clock(at_s)}")


def _flat(values: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, "-" if value is None else str(value)))
    return rows


def _pairs() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _clock(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
