"""`pilotlight deploy | list | show | delete | schema`: models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pilotlight_deploy.cluster_file import cluster_schema
from pilotlight_deploy.deploying import deploy_model
from pilotlight_deploy.model_file import read_target, schema
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.tables import deployed, model_details, models_table

NameArgument = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]


def deploy(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="Directory of a checkpoint in safetensors, or a model file (YAML).",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "--config", "-f", help="A model file; PATH then takes its source's place."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Name of the model; default: the directory's."),
    ] = None,
    url: UrlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model live: bake it, verify it, publish it.

    Example: pilotlight deploy ./checkpoint --name chat
    """
    spec = read_target(target, file=file, name=name)
    with connect(url, home) as client:
        live = deploy_model(client, spec, stderr())
    if as_json:
        return print_json(live)
    stdout().print(deployed(live))
    stdout().print(f'ask it: pilotlight chat {spec.name} "Hello"')


def list_models(
    url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Every live model and its state."""
    with connect(url, home) as client:
        models = client.models()
    if as_json:
        return print_json({"models": models})
    stdout().print(models_table(models))


def show(
    name: NameArgument, url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """One model: revision, scaling, replicas, last error."""
    with connect(url, home) as client:
        model = client.model(name)
    if as_json:
        return print_json(model)
    stdout().print(model_details(model))


def delete(
    name: NameArgument, url: UrlOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Take a model off. Its source checkpoint is not touched."""
    with connect(url, home) as client:
        client.delete(name)
    if as_json:
        return print_json({"deleted": name})
    stdout().print(f"{name} is gone")


def print_schema(
    kind: Annotated[
        Literal["model", "cluster"], typer.Argument(help="Of a model file or a cluster file.")
    ] = "model",
) -> None:
    """JSON schema of the model file, or of the cluster file, for editors."""
    typer.echo(json.dumps(schema() if kind == "model" else cluster_schema(), indent=2))
