"""A diagnosis as a table. Pure: values in, renderable out."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from pilotlight_deploy.doctor import Diagnosis
from pilotlight_deploy.links import Link
from pilotlight_deploy.render.units import size

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    machine = diagnosis.machine
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("", "machine", Text(f"{machine.cores} cores, {machine.cpu}"))
    table.add_row("", "kernel", Text(machine.kernel))
    table.add_row("", "gpu", Text(machine.gpu or "none"))
    for check in diagnosis.checks:
        mark, style = _MARKS[check.status]
        table.add_row(Text(mark, style=style), check.name, Text(check.value))
    if diagnosis.links is not None:
        table.add_row("", "memory link", _link(diagnosis.links.memory))
        table.add_row("", "disk link", _link(diagnosis.links.disk))
    return table


def _link(link: Link) -> Text:
    return Text(f"{size(link.bytes_per_s)}/s ({link.how}, {size(link.measured_bytes)})")
