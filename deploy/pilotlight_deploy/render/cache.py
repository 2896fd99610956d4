"""What `pilotlight cache` prints. Pure: values in, renderables out."""

from __future__ import annotations

import time

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pilotlight_deploy.caching import CacheContent, PullReport, VerifyReport
from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import duration, rate, size
from pilotlight_loader.cache.catalog import CacheEntry, Removal

_DIGEST_CHARS = 12


def entries_table(content: CacheContent, now_s: float | None = None) -> RenderableType:
    if not content.entries:
        return Text("the cache is empty: `pilotlight cache pull LOCATION` fills it")
    now_s = time.time() if now_s is None else now_s
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("location", "digest", "size", "last used", "state"):
        table.add_column(column, overflow="fold")
    for entry in content.entries:
        table.add_row(
            Text(printable(entry.location) or "unknown"),
            Text((entry.digest or "-")[:_DIGEST_CHARS]),
            Text(size(entry.nbytes)),
            Text(_ago(now_s - entry.last_used_s)),
            Text(_state(entry)),
        )
    table.add_row(Text("in all"), Text(), Text(size(content.nbytes)))
    return table


def pulled(report: PullReport) -> RenderableType:
    fetched = "all of it was there"
    if report.fetched_bytes:
        speed = rate(report.fetched_bytes, report.seconds)
        floor = "" if report.floor_s is None else f", floor {duration(report.floor_s)}"
        took = f"{duration(report.seconds)} ({speed}{floor})"
        fetched = f"{size(report.fetched_bytes)} fetched in {took}"
    files = "1 file" if report.files == 1 else f"{report.files} files"
    return Text(f"{printable(report.location)}: {files}, {size(report.nbytes)}, {fetched}")


def removed(removal: Removal) -> RenderableType:
    lines = [f"removed {printable(entry.location) or 'a part'}" for entry in removal.removed]
    lines += [f"in use: {printable(entry.location)}" for entry in removal.in_use]
    return Text("\n".join([*lines, f"{size(removal.freed_bytes)} freed"]))


def verified(report: VerifyReport) -> RenderableType:
    return Text(
        f"{report.blobs} blobs, {size(report.nbytes)} in {duration(report.seconds)} "
        f"({rate(report.nbytes, report.seconds) or '-'}), {len(report.damaged)} damaged"
    )


def _state(entry: CacheEntry) -> str:
    if entry.partial:
        share = f"{size(entry.present_bytes)} of {size(entry.nbytes)}"
        return f"{share}, being pulled" if entry.leased else f"{share}, interrupted"
    return "in use" if entry.leased else "idle"


def _ago(seconds: float) -> str:
    for unit_s, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name} ago"
    return "now"
