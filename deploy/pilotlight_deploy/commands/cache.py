"""`pilotlight cache ls | pull | rm | prune | verify`: checkpoints kept on this machine's disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.options import HomeOption, JsonOption, resolve_home
from pilotlight_deploy.output import print_json, stderr, stdout
from pilotlight_deploy.render.progress import transferring
from pilotlight_deploy.render.units import parse_size

# The commands import what they call themselves: the loader imports torch, which takes seconds.

app = typer.Typer(no_args_is_help=True, help="Checkpoints kept on this machine's disk.")

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A location, all of whose files are meant, or a digest.",
        show_default=False,
    ),
]


@app.callback()
def cache() -> None:
    """Checkpoints kept on this machine's disk: under `cache` in the home."""


@app.command("ls")
def list_entries(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """What is in the cache, what is used, what is only partly there."""
    from pilotlight_deploy.caching import content, opened_cache  # noqa: PLC0415
    from pilotlight_deploy.render.cache import entries_table  # noqa: PLC0415

    with opened_cache(resolve_home(home)) as cache:
        found = content(cache)
    if as_json:
        return print_json(asdict(found))
    stdout().print(entries_table(found))


@app.command("pull")
def pull(
    location: Annotated[
        str,
        typer.Argument(
            help="A checkpoint: a directory, a file, or an address.", show_default=False
        ),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a checkpoint into the cache. Interrupted, it goes on where it was.

    Example: pilotlight cache pull s3://bucket/llama-8b
    """
    from pilotlight_deploy.caching import opened_cache, pull_checkpoint  # noqa: PLC0415
    from pilotlight_deploy.render.cache import pulled  # noqa: PLC0415
    from pilotlight_platform.links import read_links  # noqa: PLC0415

    links = read_links(resolve_home(home))
    with opened_cache(resolve_home(home)) as cache, transferring(stderr()) as show:
        report = pull_checkpoint(cache, location, show, links)
    if as_json:
        return print_json(asdict(report))
    stdout().print(pulled(report))


@app.command("rm")
def remove(target: TargetArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Remove a checkpoint from the cache; not what another process uses."""
    from pilotlight_deploy import caching  # noqa: PLC0415
    from pilotlight_deploy.render.cache import removed  # noqa: PLC0415

    with caching.opened_cache(resolve_home(home)) as cache:
        removal = caching.remove(cache, target)
    if as_json:
        return print_json(asdict(removal))
    stdout().print(removed(removal))


@app.command("prune")
def prune(
    capacity: Annotated[
        str | None, typer.Option(help="Keep the newest up to this size, as in 200GB.")
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0.0, help="Remove what was not used for so many days.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what was not used for long; always what killed processes left."""
    try:
        capacity_bytes = None if capacity is None else parse_size(capacity)
    except ValueError as error:
        raise CliError(f"--capacity: {error}", ExitCode.USAGE) from error
    from pilotlight_deploy.caching import opened_cache  # noqa: PLC0415
    from pilotlight_deploy.render.cache import removed  # noqa: PLC0415

    unused_for_s = None if unused_days is None else unused_days * 24 * 3600
    with opened_cache(resolve_home(home)) as cache:
        removal = cache.prune(capacity_bytes, unused_for_s)
    if as_json:
        return print_json(asdict(removal))
    stdout().print(removed(removal))


@app.command("verify")
def verify(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A location or a digest; default: everything."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read what is cached again and compare checksums. What is damaged is removed."""
    from pilotlight_deploy import caching  # noqa: PLC0415
    from pilotlight_deploy.render.cache import verified  # noqa: PLC0415

    with caching.opened_cache(resolve_home(home)) as cache, transferring(stderr()) as show:
        report = caching.verify(cache, target, show)
    if as_json:
        print_json(asdict(report))
    else:
        stdout().print(verified(report))
    if report.damaged:
        problems = "\n".join(f"{damage.location}: {damage.reason}" for damage in report.damaged)
        raise CliError(problems, ExitCode.BAD_INPUT)
