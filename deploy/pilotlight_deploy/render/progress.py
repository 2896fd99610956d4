"""What is going on while it takes long: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import size
from pilotlight_platform.schemas.model import DeployProgress

_PLAIN_EVERY_S = 1.0

Update = Callable[[str], None]


@contextmanager
def waiting(console: Console, message: str) -> Iterator[Update]:
    """Show *message* until the block ends; the value given replaces it."""
    if not console.is_terminal:
        console.print(message, soft_wrap=True)
        yield lambda text: console.print(printable(text), soft_wrap=True)
        return
    with console.status(Text(message)) as status:
        yield lambda text: status.update(Text(printable(text)))


@contextmanager
def deploying(console: Console) -> Iterator[Callable[[DeployProgress], None]]:
    """Show the steps of a deploy, with a bar where bytes are counted."""
    if not console.is_terminal:
        yield PlainDeploy(lambda line: console.print(line, soft_wrap=True)).show
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("deploy", total=None)

        def show(event: DeployProgress) -> None:
            progress.update(
                task,
                description=_line(event),
                completed=event.done_bytes,
                total=event.total_bytes or None,
            )

        yield show


class PlainDeploy:
    """A line per phase, and at most one a second inside a phase."""

    def __init__(self, write: Update, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._phase = ""
        self._written_s = 0.0

    def show(self, event: DeployProgress) -> None:
        now_s = self._clock()
        if event.phase == self._phase and now_s - self._written_s < _PLAIN_EVERY_S:
            return
        self._phase, self._written_s = event.phase, now_s
        self._write(_line(event))


def _line(event: DeployProgress) -> str:
    counted = f" ({size(event.done_bytes)} of {size(event.total_bytes)})"
    return f"{event.phase}: {printable(event.message)}{counted if event.total_bytes else ''}"
