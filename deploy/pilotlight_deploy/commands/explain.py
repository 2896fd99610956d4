"""`pilotlight explain`: what was decided on a model or on the worker pool, and why."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from pilotlight_autoscaler.duration import Seconds
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect
from pilotlight_deploy.output import print_json, stdout
from pilotlight_deploy.render.scaling import explanation_table

_SECONDS = TypeAdapter(Seconds)


def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Its name.", show_default=False)
    ] = None,
    pool: Annotated[
        bool, typer.Option("--pool", help="Why there are so many workers, instead of a model.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Only of the last 90s, 10m, 2h; else all that is kept.")
    ] = None,
    url: UrlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a model has the replicas it has: each decision with its rule, inputs and alternative."""
    if pool == (name is not None):
        raise CliError("name a model, or give --pool: one of both", ExitCode.USAGE)
    since_s = 0.0 if since is None else max(0.0, time.time() - _parse(since))
    with connect(url, home) as client:
        explanation = (
            client.explain_pool(since_s) if name is None else client.explain(name, since_s)
        )
    if as_json:
        return print_json(explanation)
    stdout().print(explanation_table(explanation))


def _parse(text: str) -> float:
    """Raises CliError."""
    number = text.replace(".", "", 1).isdigit()
    try:
        return _SECONDS.validate_python(float(text) if number else text)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise CliError(f"--since: {message}", ExitCode.USAGE) from error
