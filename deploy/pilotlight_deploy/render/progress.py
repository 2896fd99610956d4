"""What is going on while it takes long: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import duration, rate, size
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


@contextmanager
def transferring(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show bytes on their way: the value given takes what is done, bytes done, bytes in all."""
    if not console.is_terminal:
        yield PlainTransfer(lambda line: console.print(line, soft_wrap=True)).show
        return
    transfer = Transfer()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            line = transfer.line(label, done, total)
            progress.update(task, description=line, completed=done, total=total or None)

        yield show


@contextmanager
def advancing(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show how far something is: the value given takes what it is and the part that is done."""
    if not console.is_terminal:
        yield PlainAdvance(lambda line: console.print(line, soft_wrap=True)).show
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda label, part: progress.update(
            task, description=f"{printable(label)}: {part:.0%}", completed=part
        )


class PlainAdvance:
    """A line for each thing that begins, and at most one every few seconds inside."""

    _EVERY_S = 5.0

    def __init__(self, write: Update, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._label: str | None = None
        self._written_s = 0.0

    def show(self, label: str, part: float) -> None:
        now_s = self._clock()
        if label == self._label and now_s - self._written_s < self._EVERY_S:
            return
        text = printable(label) if label != self._label else f"{printable(label)}: {part:.0%}"
        self._label, self._written_s = label, now_s
        self._write(text)


class Transfer:
    """How fast bytes come, and when the last one will; those that were there do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._label: str | None = None
        self._began_s = 0.0
        self._began_bytes = 0

    def line(self, label: str, done: int, total: int) -> str:
        """``pulling a: 12 MB of 40 MB, 1.2 GB/s, 23 ms left``."""
        now_s = self._clock()
        if label != self._label:
            self._label, self._began_s, self._began_bytes = label, now_s, done
        text = f"{printable(label)}: {size(done)} of {size(total)}"
        came, spent_s = done - self._began_bytes, now_s - self._began_s
        if came <= 0 or spent_s <= 0:
            return text
        left_s = (total - done) * spent_s / came
        return f"{text}, {rate(came, spent_s)}, {duration(left_s)} left"


class PlainTransfer:
    """At most one line a second, and one for each thing that begins."""

    def __init__(self, write: Update, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._transfer = Transfer(clock)
        self._label: str | None = None
        self._written_s = 0.0

    def show(self, label: str, done: int, total: int) -> None:
        now_s = self._clock()
        line = self._transfer.line(label, done, total)
        if label == self._label and now_s - self._written_s < _PLAIN_EVERY_S:
            return
        self._label, self._written_s = label, now_s
        self._write(line)


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
