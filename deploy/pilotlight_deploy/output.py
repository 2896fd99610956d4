"""Where the command writes: answers on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import os
from typing import Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

# C0 without tab and newline, DEL, C1: a model's answer must not drive the terminal.
_CONTROL = dict.fromkeys(
    [*(set(range(32)) - {9, 10}), *range(127, 160)], "\N{REPLACEMENT CHARACTER}"
)


_PIPED_WIDTH = 160  # rich takes 80 for a pipe, which would fold the rows that scripts read


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout. Raises ValueError for NaN and infinities."""
    typer.echo(json.dumps(to_jsonable_python(value), allow_nan=False))


def printable(text: str) -> str:
    """*text* without control characters other than tab and newline."""
    return text.translate(_CONTROL)
