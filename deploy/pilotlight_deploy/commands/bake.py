"""`pilotlight bake`: a baked checkpoint in a directory, without a platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pilotlight_deploy.model_file import read_model_spec
from pilotlight_deploy.options import HomeOption, JsonOption, load
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import deploying
from pilotlight_deploy.render.units import size
from pilotlight_platform.schemas.model import (
    DeployProgress,
    Dtype,
    Quantization,
    QuantizationDevice,
    QuantizationRounding,
    Sparsity,
)


def bake(
    source: Annotated[
        str, typer.Argument(help="A checkpoint: a directory, or an address.", show_default=False)
    ],
    destination: Annotated[
        Path, typer.Argument(help="Directory to make; it must not exist.", show_default=False)
    ],
    quantize: Annotated[Quantization, typer.Option(help="Weights in fewer bits.")] = "none",
    rounding: Annotated[
        QuantizationRounding,
        typer.Option(
            help="How weights are rounded; auto: gptq for up to half a billion weights, "
            "100 million in int4."
        ),
    ] = "auto",
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 file to calibrate gptq with; default: its own.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Layers that stay as they are: a pattern; may be given again."),
    ] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="The same bits for all layers: fewest bytes.")
    ] = False,
    device: Annotated[
        QuantizationDevice, typer.Option(help="Whose kernels quantized weights are laid out for.")
    ] = "cpu",
    sparsity: Annotated[
        Sparsity, typer.Option(help="2:4 stores weights of that pattern compressed.")
    ] = "none",
    dtype: Annotated[Dtype, typer.Option(help="Type of what is not quantized.")] = "auto",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bake a checkpoint into a directory and verify it, without a platform.

    Example: pilotlight bake ./checkpoint ./baked --quantize int4
    """
    spec = read_model_spec(
        source=source,
        name="bake",
        quantization=quantize,
        quantization_rounding=rounding,
        quantization_text=None if text is None else str(text.absolute()),
        quantization_skip=skip or (),
        quantization_uniform=uniform,
        sparsity=sparsity,
        dtype=dtype,
    )
    settings = load(home)
    import torch  # noqa: PLC0415  # takes a second to import

    from pilotlight_platform.baking.directory import bake_directory  # noqa: PLC0415  # the same

    # As the baking process: weights are rounded in small blocks, and two threads that wait for
    # each other on busy cores take several times as long as one.
    torch.set_num_threads(1)
    with deploying(stderr()) as show:
        made = bake_directory(
            spec,
            destination.absolute(),
            settings.cache_dir,
            settings.cache_bytes,
            lambda phase, message, done, total: show(
                DeployProgress(phase=phase, message=message, done_bytes=done, total_bytes=total)
            ),
            device,
        )
    if as_json:
        return print_json(made)
    baked = made.baked
    kind = "" if baked.quantization == "none" else f" in {baked.quantization}"
    if baked.rounding is not None:
        kind += {"gptq": ", rounded by gptq", "nearest": ", rounded to the nearest"}[baked.rounding]
    stdout().print(
        f"{made.path}: {baked.architecture}, {size(baked.nbytes)}{kind}, verified", soft_wrap=True
    )
