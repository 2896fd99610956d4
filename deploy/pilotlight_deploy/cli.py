"""The `pilotlight` command. Commands parse, call and print; their rules live elsewhere."""

from __future__ import annotations

import errno
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pilotlight_deploy.commands import (
    autoscaling,
    bake,
    bench,
    cache,
    chat,
    demo,
    explain,
    models,
    plan,
    platform,
    sample,
    simulate,
)
from pilotlight_deploy.errors import CliError, from_platform
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.output import printable
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.version import __version__


class _Commands(TyperGroup):
    """The command group that turns every error into its line and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            return _fail(error)
        except PlatformError as error:
            return _fail(from_platform(error))
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # typer ends quietly: whoever read our output has gone
            return _fail(CliError(str(error), ExitCode.UNEXPECTED))


def _fail(error: CliError) -> None:
    for line in error.lines():
        typer.echo(printable(line), err=True)
    raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    name="pilotlight",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 unexpected, 2 usage, 3 bad input, 4 not found, 5 no platform, "
    "6 refused, 7 machine unfit, 8 SLO not met, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pilotlight {__version__}")
        raise typer.Exit


@app.callback()
def pilotlight(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """A serverless model platform that makes cold starts disappear."""


_RUN, _MODELS, _TRY = "The platform", "Models", "Try and measure"

app.command(rich_help_panel=_RUN)(platform.up)
app.command(rich_help_panel=_RUN)(platform.down)
app.command(rich_help_panel=_RUN)(platform.status)
app.command(rich_help_panel=_RUN)(platform.doctor)
app.command(rich_help_panel=_MODELS)(plan.plan)
app.command(rich_help_panel=_MODELS)(models.deploy)
app.command("list", rich_help_panel=_MODELS)(models.list_models)
app.command(rich_help_panel=_MODELS)(models.show)
app.command(rich_help_panel=_MODELS)(models.delete)
app.command(rich_help_panel=_MODELS)(explain.explain)
app.add_typer(autoscaling.app, name="autoscaling", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(chat.chat)
app.command(rich_help_panel=_MODELS)(bake.bake)
app.add_typer(cache.app, name="cache", rich_help_panel=_MODELS)
app.command("schema", rich_help_panel=_MODELS)(models.print_schema)
app.command(rich_help_panel=_TRY)(demo.demo)
app.command(rich_help_panel=_TRY)(sample.sample)
app.command(rich_help_panel=_TRY)(simulate.simulate)
app.add_typer(bench.app, name="bench", rich_help_panel=_TRY)


def main() -> None:
    """The console script."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a bar in an ASCII locale, Latin-1 on stdin
    try:
        app()
    except Exception as error:
        traceback.print_exc()
        typer.echo(f"error: {type(error).__name__} is a bug in Pilotlight: report it", err=True)
        sys.exit(ExitCode.UNEXPECTED)
