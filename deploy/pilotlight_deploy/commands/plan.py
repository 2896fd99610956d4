"""`pilotlight plan`: what a model's cold starts will take, before it is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilotlight_deploy.cluster_file import read_cluster_file
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.model_file import read_target
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect, load
from pilotlight_deploy.output import print_json, stdout

if TYPE_CHECKING:
    from pilotlight_autoscaler.planning.keep_for import KeepFor
    from pilotlight_deploy.client import PlatformClient
    from pilotlight_deploy.planning import Past


def plan(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A model file, or a checkpoint's directory.", show_default=False
        ),
    ],
    cluster: Annotated[
        Path | None,
        typer.Option(help="Cluster file of the platform: a pool that may have no worker."),
    ] = None,
    url: UrlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Foretell a model's cold starts, and the cheapest settings that meet its cold_start_slo.

    Reads headers and configs, no weights. Exit code 8: the files as they are do not meet it.
    """
    spec = read_target(file, file=None, name=None)
    pool = None if cluster is None else read_cluster_file(cluster).pool
    settings = load(home)
    past = _past(spec.name, url, home)
    # They import torch, which takes seconds: not for a file that is wrong.
    from pilotlight_deploy.planning import plan_model  # noqa: PLC0415
    from pilotlight_deploy.render.plan import plan_text  # noqa: PLC0415

    report = plan_model(spec, pool, settings, past)
    if as_json:
        print_json(report.values())
    else:
        stdout().print(plan_text(report))
    if report.plan.meets is False:
        raise typer.Exit(ExitCode.NOT_MET)


def _past(name: str, url: str | None, home: Path | None) -> Past | None:
    """What the running platform has seen; None where none runs."""
    from pilotlight_deploy.planning import Past  # noqa: PLC0415

    try:
        with connect(url, home) as client:
            status = client.status()
            known = any(model.name == name for model in status.models)
            return Past(
                url=client.url,
                models=status.models,
                worker_bytes=max((w.capacity_bytes for w in status.workers), default=0),
                keep_for=_keep_for(client, name) if known else None,
            )
    except CliError as error:
        if error.exit_code is ExitCode.UNREACHABLE:
            return None
        raise


def _keep_for(client: PlatformClient, name: str) -> KeepFor | None:
    try:
        return client.scaling(name).keep_for
    except CliError as error:
        if error.exit_code is ExitCode.NOT_FOUND:  # deleted in this moment
            return None
        raise
