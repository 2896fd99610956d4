"""`pilotlight simulate`: what a policy would have cost on your traffic, or on a synthetic one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.options import JsonOption
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import advancing
from pilotlight_deploy.render.simulation import pareto_chart, results_table


def simulate(
    trace: Annotated[
        Path | None,
        typer.Argument(help="Access log: .csv, .jsonl, or .log in Common Log Format."),
    ] = None,
    synthetic: Annotated[
        Literal["azure"] | None, typer.Option(help="Traffic of a published shape instead.")
    ] = None,
    policy: Annotated[str, typer.Option(help="The policy to run.")] = "pilotlight",
    compare: Annotated[str | None, typer.Option(help="Others beside it: A,B,…")] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="PARAM=V1,V2: a field of `autoscaling:`, cold_start_weight or workers."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of traffic and load times.")] = 0,
    days: Annotated[float | None, typer.Option(min=0.01, max=366, help="Length.")] = None,
    models: Annotated[int, typer.Option(min=1, max=10_000, help="Of a synthetic trace.")] = 60,
    workers: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="One model each; else room for all.")
    ] = None,
    cold_start: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds, of every model; else drawn.")
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0, help="Worker-seconds that a request-second of waiting costs.")
    ] = 30.0,
    usd_per_hour: Annotated[float, typer.Option(min=0, help="Price of a worker.")] = 2.0,
    plot: Annotated[Path | None, typer.Option(help="Pareto chart, a PNG file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay traffic against autoscaling policies: cold starts, waiting, worker-hours, money."""
    # The simulator takes a while to import; `pilotlight --help` should not wait for it.
    from pilotlight_autoscaler.simulation.setting import Prices  # noqa: PLC0415
    from pilotlight_deploy import simulating  # noqa: PLC0415

    if (trace is None) == (synthetic is None):
        raise CliError("give either a TRACE or --synthetic azure", ExitCode.USAGE)
    plan = simulating.Plan(
        policies=tuple(dict.fromkeys((policy, *(compare.split(",") if compare else ())))),
        sweep=None if sweep is None else simulating.parse_sweep(sweep),
        seed=seed,
        cold_start_s=cold_start,
        workers=workers,
        prices=Prices(cold_start_weight=weight, worker_usd_per_hour=usd_per_hour),
    )
    with advancing(stderr()) as show:
        if trace is not None:
            show(f"reading {trace.name}", 0.0)
            requests = simulating.load_trace(trace, days)
        else:
            show("drawing the traffic", 0.0)
            requests = simulating.synthetic_trace("azure", models, days or 1.0, seed)
        results = simulating.run(requests, plan, show)
    if plot is not None:
        pareto_chart(results, plot)
    if as_json:
        return print_json(
            {
                "trace": {
                    "requests": len(requests),
                    "models": len(requests.names),
                    "seconds": requests.horizon_us / 1e6,
                    "sha256": requests.digest(),
                },
                "seed": seed,
                "results": [asdict(result) for result in results],
            }
        )
    stdout().print(results_table(results))
