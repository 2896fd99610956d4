"""`pilotlight autoscaling validate | show | set`: the settings that say how models scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pilotlight_deploy.cluster_file import is_cluster_file, read_cluster_file
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import read_model_spec
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect
from pilotlight_deploy.output import print_json, stdout
from pilotlight_deploy.render.scaling import pool_table, scaling_table, settings_table
from pilotlight_platform.schemas.decision import ScalingStatus
from pilotlight_platform.schemas.model import ModelSpec

app = typer.Typer(no_args_is_help=True, help="How models and the pool scale: check, see, change.")

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A model file or a cluster file.", show_default=False)
]


@app.command()
def validate(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check a file; asks no platform."""
    if is_cluster_file(file):
        read_cluster_file(file)
        kind = "cluster"
    else:
        read_model_spec(file)
        kind = "model"
    if as_json:
        return print_json({"file": file, "kind": kind, "valid": True})
    stdout().print(f"{file} is a valid {kind} file", soft_wrap=True)


@app.command()
def show(
    file: FileArgument, url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """The file's settings, defaults filled in, and what a running platform makes of them."""
    if is_cluster_file(file):
        pool = read_cluster_file(file).pool
        return print_json({"pool": pool}) if as_json else stdout().print(pool_table(pool))
    spec = read_model_spec(file)
    live = _live(spec, url, home)
    same = live is not None and live.config == spec.autoscaling
    if as_json:
        return print_json({"config": spec.autoscaling, "live": live, "same": same})
    if live is None:
        stdout().print(settings_table(spec.name, spec.autoscaling))
        return stdout().print(Text("\nno platform has this model: nothing is measured yet"))
    shown = live.model_copy(update={"config": spec.autoscaling})
    stdout().print(scaling_table(shown))
    if not same:
        stdout().print(Text("\nthe platform has other settings: `pilotlight autoscaling set` them"))


@app.command("set")
def set_scaling(
    file: FileArgument, url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Give a live model the file's `autoscaling:`, in place: no replica starts anew for it."""
    if is_cluster_file(file):
        raise CliError(
            f"{file} is a cluster file: the pool is sized when the platform starts",
            ExitCode.USAGE,
            "give it to `pilotlight up --cluster`",
        )
    spec = read_model_spec(file)
    with connect(url, home) as client:
        status = client.configure(spec.name, spec.autoscaling)
    if as_json:
        return print_json(status)
    stdout().print(scaling_table(status))


def _live(spec: ModelSpec, url: str | None, home: Path | None) -> ScalingStatus | None:
    try:
        with connect(url, home) as client:
            return client.scaling(spec.name)
    except CliError as error:
        if error.exit_code in {ExitCode.UNREACHABLE, ExitCode.NOT_FOUND}:
            return None
        raise
