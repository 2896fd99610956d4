"""`pilotlight autoscaling validate | show | set`: the settings that say how models scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from pilotlight_autoscaler import PoolConfig
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.cluster_file import is_cluster_file, read_cluster_file
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import read_model_spec
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect, load
from pilotlight_deploy.output import print_json, stdout
from pilotlight_deploy.render.scaling import (
    pool_status_table,
    pool_table,
    scaling_table,
    settings_table,
)
from pilotlight_deploy.validating import check_together, read_files
from pilotlight_platform.schemas.decision import ScalingStatus
from pilotlight_platform.schemas.model import ModelSpec

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="How models and the pool scale: check, see, change.")

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A model file or a cluster file.", show_default=False)
]

FilesArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Model files and a cluster file.", show_default=False),
]


@app.command()
def validate(files: FilesArgument, as_json: JsonOption = False) -> None:
    """Check files; with a cluster file among them, also whether its pool can hold what the models
    keep although idle. Asks no platform.
    """
    found = read_files(files)
    # Of one file alone nothing depends on the environment.
    both = found.pool is not None and found.specs
    uncounted = check_together(found, load(None)) if both else []
    valid = [{"file": file, "kind": kind, "valid": True} for file, kind in found.kinds.items()]
    if as_json:
        together = {"files": valid, "valid": True, "bytes_not_counted": uncounted}
        return print_json(valid[0] if len(files) == 1 else together)
    for file, kind in found.kinds.items():
        stdout().print(f"{file} is a valid {kind} file", soft_wrap=True)
    if found.pool is not None and found.specs:
        known = ", as far as known" if uncounted else ""
        room = f"{found.pool.max_workers} workers at most"
        stdout().print(f"min_replicas of all models fit the pool{known}: {room}", soft_wrap=True)
    if uncounted:
        text = f"without the bytes of {', '.join(uncounted)}, whose source cannot be read here"
        stdout().print(text, soft_wrap=True)


@app.command()
def show(
    file: FileArgument, url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """The file's settings, defaults filled in, and what a running platform makes of them."""
    if is_cluster_file(file):
        return _show_pool(read_cluster_file(file).pool, url, home, as_json)
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
    """Give a live model the file's `autoscaling:`, or the pool its bounds, in place.

    Nothing starts anew for it. A pool keeps them until `pilotlight down`.
    """
    if is_cluster_file(file):
        pool = read_cluster_file(file).pool
        with connect(url, home) as client:
            found = client.configure_pool(pool)
        return print_json(found) if as_json else stdout().print(pool_status_table(found))
    spec = read_model_spec(file)
    with connect(url, home) as client:
        status = client.configure(spec.name, spec.autoscaling)
    if as_json:
        return print_json(status)
    stdout().print(scaling_table(status))


def _show_pool(pool: PoolConfig, url: str | None, home: Path | None, as_json: bool) -> None:
    live = _reached(lambda client: client.pool(), url, home)
    same = live is not None and live.config == pool
    if as_json:
        return print_json({"pool": pool, "live": live, "same": same})
    if live is None:
        return stdout().print(pool_table(pool))
    stdout().print(pool_status_table(live.model_copy(update={"config": pool})))
    if not same:
        stdout().print(Text("\nthe platform has other settings: `pilotlight autoscaling set` them"))


def _live(spec: ModelSpec, url: str | None, home: Path | None) -> ScalingStatus | None:
    return _reached(lambda client: client.scaling(spec.name), url, home)


def _reached(ask: Callable[[PlatformClient], T], url: str | None, home: Path | None) -> T | None:
    """What a platform says; None if there is none, or it does not know it."""
    try:
        with connect(url, home) as client:
            return ask(client)
    except CliError as error:
        if error.exit_code in {ExitCode.UNREACHABLE, ExitCode.NOT_FOUND}:
            return None
        raise
