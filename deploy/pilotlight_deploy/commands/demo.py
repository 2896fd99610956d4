"""`pilotlight demo`: the whole of Pilotlight in a minute."""

from __future__ import annotations

from typing import Annotated

import typer

from pilotlight_deploy.demo import run_demo
from pilotlight_deploy.options import HomeOption, JsonOption, resolve_home
from pilotlight_deploy.output import print_json, stderr, stdout


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a platform, light a sample model from zero, show where the time went, stop."""
    console = stderr() if as_json else stdout()
    result = run_demo(console, resolve_home(home) / "demo", keep=keep)
    if as_json:
        print_json(result)
