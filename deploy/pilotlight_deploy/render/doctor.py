"""A diagnosis as a table. Pure: values in, renderable out."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from pilotlight_deploy.doctor import Diagnosis
from pilotlight_deploy.render.units import duration, size
from pilotlight_platform.links import Link, Links, StoreLink

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
        for name, link in _rows(diagnosis.links):
            table.add_row("", name, _link(link))
    return table


def _rows(links: Links) -> Iterator[tuple[str, Link | StoreLink]]:
    yield "memory link", links.memory
    if links.memory_all is not None:
        yield "memory link", links.memory_all
    yield "disk link", links.disk
    if links.device is not None:
        yield "gpu link", links.device
    yield from sorted(links.stores.items())


def _link(link: Link | StoreLink) -> Text:
    parts = [link.how]
    if link.measured_bytes:
        parts.append(size(link.measured_bytes))
    if isinstance(link, StoreLink):
        parts.append(f"first byte after {duration(link.first_byte_s)}")
    return Text(f"{size(link.bytes_per_s)}/s ({', '.join(parts)})")
