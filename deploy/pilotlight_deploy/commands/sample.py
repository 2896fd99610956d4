"""`pilotlight sample`: a model to try things with, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pilotlight_deploy.options import JsonOption
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import waiting
from pilotlight_deploy.render.units import size as bytes_text
from pilotlight_deploy.sample import SampleSize, write_sample


def sample(
    directory: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("sample"),
    size: Annotated[
        SampleSize,
        typer.Option(
            help="trained: 14 MB, continues Python; with random weights tiny: 4 MB; "
            "bench: 0.63 GB, load: 2 GB, as measured by the benches."
        ),
    ] = "trained",
    as_json: JsonOption = False,
) -> None:
    """Write a sample Llama checkpoint: one that continues Python, or one with random weights."""
    with waiting(stderr(), "writing the sample"):
        made = write_sample(directory, size)
    if as_json:
        return print_json(made)
    what = "was there already" if made.reused else "written"
    out = stdout()
    out.print(f"{made.path}: {bytes_text(made.nbytes)}, {what}", soft_wrap=True)
    if size == "trained":
        out.print("trained on Python's standard library: begin some code, and it goes on")
    else:
        out.print("random weights: it answers noise, at the speed of a real model of its size")
    out.print(f"deploy it: pilotlight deploy {made.path} --name sample", soft_wrap=True)
