"""`pilotlight bench …`: measurements, each with its goal."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pilotlight_deploy.bench.report import report_table
from pilotlight_deploy.options import HomeOption, JsonOption, resolve_home
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import advancing, waiting

app = typer.Typer(no_args_is_help=True, help="Measure cold starts and autoscaling.")


@app.callback()
def bench() -> None:
    """Measurements, each with its goal."""


@app.command()
def cold(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 5,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The cold start here against Ray Serve + transformers, in one run."""
    # Ray's clusters ask for a token; a driver that joins one says so before it imports Ray.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Imports Ray and torch.
    from pilotlight_deploy.bench.cold import run  # noqa: PLC0415

    with waiting(stderr(), "measuring cold starts") as update:
        report = run(resolve_home(home), runs=runs, on_progress=update)
    if as_json:
        return print_json(report)
    stdout().print(report_table(report))


@app.command()
def load(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 5,
    peer: Annotated[bool, typer.Option(help="Measure Run:ai's streamer, too.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The loader beside what the links allow and what others do, in one run."""
    # Imports torch and transformers.
    from pilotlight_deploy.bench.load.run import run  # noqa: PLC0415

    with waiting(stderr(), "measuring loads") as update:
        report = run(resolve_home(home), runs=runs, with_peer=peer, on_progress=update)
    if as_json:
        return print_json(report)
    stdout().print(report_table(report))


@app.command()
def autoscale(as_json: JsonOption = False) -> None:
    """The autoscaling policy beside others and the optimum, simulated; about seven minutes."""
    # Imports the simulator, which no other bench needs.
    from pilotlight_deploy.bench.autoscale import run  # noqa: PLC0415

    with advancing(stderr()) as show:
        report = run(show)
    if as_json:
        return print_json(report)
    stdout().print(report_table(report))


@app.command()
def quant(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 7,
    peer: Annotated[bool, typer.Option(help="Measure llama.cpp, too, if it is installed.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Weights in fewer bits: what they cost in quality, and what they save."""
    # Imports torch and transformers.
    from pilotlight_deploy.bench.quant.run import run  # noqa: PLC0415

    with waiting(stderr(), "measuring weights in fewer bits") as update:
        report = run(resolve_home(home), runs=runs, with_peer=peer, on_progress=update)
    if as_json:
        return print_json(report)
    stdout().print(report_table(report))


@app.command()
def wake(
    models: Annotated[int, typer.Option(min=20, help="Models; a tenth of them have room.")] = 200,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of traffic.")] = 600.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Starts from zero on a live platform, one by one and in a crowd; about 17 minutes."""
    # Imports Ray and torch.
    from pilotlight_deploy.bench.wake.run import run  # noqa: PLC0415

    with advancing(stderr()) as show:
        report = run(resolve_home(home), models=models, seconds=seconds, on_progress=show)
    if as_json:
        return print_json(report)
    stdout().print(report_table(report))
