"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.address import read_address
from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings, load_settings

DEFAULT_URL = "http://127.0.0.1:8000"

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="PILOTLIGHT_URL",
        help=f"Platform to talk to; default: the one running in --home, else {DEFAULT_URL}.",
    ),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="PILOTLIGHT_HOME", help="Data directory; default: ~/.pilotlight."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def resolve_home(home: Path | None) -> Path:
    """The data directory, absolute: the platform may run in another working directory."""
    default: Path = Settings.model_fields["home"].get_default(call_default_factory=True)
    return (home or default).expanduser().absolute()


def resolve_url(url: str | None, home: Path | None) -> str:
    """*url* if given, else where the platform of *home* answers, else the default."""
    if url is not None:
        return url
    address = read_address(resolve_home(home))
    return DEFAULT_URL if address is None else address.url


def load(home: Path | None, **overrides: object) -> Settings:
    """Settings from the environment and the options. Raises CliError for a wrong one."""
    try:
        return load_settings(home=resolve_home(home), **overrides)
    except MachineError as error:
        raise CliError(error.message, ExitCode.USAGE) from error


def connect(url: str | None, home: Path | None) -> PlatformClient:
    """A client of the platform that the options mean; the key is PILOTLIGHT_API_KEY."""
    return PlatformClient(resolve_url(url, home), os.environ.get("PILOTLIGHT_API_KEY") or None)
