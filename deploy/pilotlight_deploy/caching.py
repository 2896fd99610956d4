"""What `pilotlight cache` does with the disk tier of a home. The loader imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.store_link import place_of
from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.catalog import CacheEntry, Removal, is_under
from pilotlight_loader.cache.pull import Pulled, PullPhase, pull
from pilotlight_loader.checkpoint import open_checkpoint
from pilotlight_loader.errors import (
    CacheError,
    CheckpointError,
    ChecksumError,
    DiskFullError,
    LoadCancelledError,
    LoaderError,
    LocationError,
    ObjectMissingError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.retry import RetryPolicy
from pilotlight_platform.links import Links

# The first that fits: the more specific ones stand first.
_EXIT_CODES: tuple[tuple[type[LoaderError], ExitCode, str | None], ...] = (
    (ObjectMissingError, ExitCode.NOT_FOUND, None),
    (LocationError, ExitCode.BAD_INPUT, None),
    (TransientReadError, ExitCode.UNREACHABLE, "run it again, what was fetched is kept"),
    (SourceReadError, ExitCode.REFUSED, None),
    (CheckpointError, ExitCode.BAD_INPUT, None),
    (DiskFullError, ExitCode.MACHINE_UNFIT, "free some, or `pilotlight cache prune`"),
    (CacheError, ExitCode.MACHINE_UNFIT, None),
    (LoadCancelledError, ExitCode.INTERRUPTED, None),
)

OnBytes = Callable[[str, int, int], None]  # what is counted, bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class CacheContent:
    """Everything in the cache."""

    directory: Path
    nbytes: int  # shared blobs once
    entries: list[CacheEntry]


@dataclass(frozen=True, slots=True)
class PullReport:
    """A checkpoint that is in the cache now."""

    location: str
    files: int
    nbytes: int
    fetched_bytes: int  # the rest was there already
    seconds: float
    digests: dict[str, str]  # by file name
    floor_s: float | None  # what was fetched, at the place's own rate, where that was measured


@dataclass(frozen=True, slots=True)
class Damage:
    location: str
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Damaged blobs were removed."""

    blobs: int
    nbytes: int
    seconds: float
    damaged: list[Damage]


@contextmanager
def opened_cache(home: Path) -> Iterator[Cache]:
    """The cache of *home*. What the loader raises inside the block comes out as CliError."""
    try:
        yield Cache(home / "cache")
    except LoaderError as error:
        raise from_loader(error) from error


def from_loader(error: LoaderError) -> CliError:
    """The error that the loader raised in this process."""
    for kind, exit_code, hint in _EXIT_CODES:
        if isinstance(error, kind):
            return CliError(str(error), exit_code, hint)
    return CliError(str(error), ExitCode.UNEXPECTED)


def content(cache: Cache) -> CacheContent:
    return CacheContent(cache.directory, cache.nbytes(), cache.entries())


def pull_checkpoint(
    cache: Cache, location: str, on_bytes: OnBytes, links: Links | None = None
) -> PullReport:
    """Bring a checkpoint's files into *cache*; *links* give the floor. Raises LoaderErrors."""
    began_s = time.monotonic()
    with open_checkpoint(location) as checkpoint:
        names = (*checkpoint.files, *checkpoint.side_files)
        # All versions are pinned before the first byte is read.
        sources = {name: checkpoint.source(name) for name in names}
        total = sum(source.version.nbytes for source in sources.values())
        pulled: dict[str, Pulled] = {}
        for name, source in sources.items():
            before = sum(one.nbytes for one in pulled.values())
            pulled[name] = pull(
                source,
                cache,
                retries=RetryPolicy(),
                progress=_counted(name, before, total, on_bytes),
            )
        fetched_bytes = sum(one.fetched_bytes for one in pulled.values())
        floors = {} if links is None else links.floors(place_of(location, checkpoint))
    bytes_per_s = floors.get("remote")
    return PullReport(
        location,
        len(pulled),
        total,
        fetched_bytes,
        time.monotonic() - began_s,
        {name: one.digest for name, one in pulled.items()},
        fetched_bytes / bytes_per_s if bytes_per_s else None,
    )


def verify(cache: Cache, target: str | None, on_bytes: OnBytes) -> VerifyReport:
    """Read blobs again: those of *target* (a digest or a location), or all. Raises LoaderErrors."""
    began_s = time.monotonic()
    wanted = {
        entry.digest: entry
        for entry in cache.entries()
        if entry.digest is not None and (target is None or _matches(entry, target))
    }
    if target is not None and not wanted:
        raise _nothing_at(cache, target)
    total = sum(entry.nbytes for entry in wanted.values())
    done, damaged = 0, []
    for digest, entry in wanted.items():
        try:
            cache.verify(digest, progress=_checked(entry.location, done, total, on_bytes))
        except ChecksumError as error:
            damaged.append(Damage(entry.location, digest, error.reason))
        done += entry.nbytes
    return VerifyReport(len(wanted), total, time.monotonic() - began_s, damaged)


def remove(cache: Cache, target: str) -> Removal:
    """Raises CliError where nothing was there, or some of it is in use; LoaderErrors."""
    removal = cache.remove(target)
    if not removal.removed and not removal.in_use:
        raise _nothing_at(cache, target)
    if removal.in_use:
        locations = ", ".join(sorted({entry.location for entry in removal.in_use}))
        raise CliError(
            f"{locations}: in use by another process",
            ExitCode.REFUSED,
            "detach the models that use it, and try again",
        )
    return removal


def _nothing_at(cache: Cache, target: str) -> CliError:
    return CliError(
        f"{cache.directory} has nothing of {target}",
        ExitCode.NOT_FOUND,
        "`pilotlight cache ls` shows what it has",
    )


def _matches(entry: CacheEntry, target: str) -> bool:
    return entry.digest == target or is_under(entry.location, target)


def _counted(
    name: str, before: int, total: int, on_bytes: OnBytes
) -> Callable[[PullPhase, int, int], None]:
    labels = {
        "fetch": f"pulling {name}",
        "check": f"checking what there is of {name}",
        "follow": f"another process pulls {name}",
    }
    return lambda phase, done, of: on_bytes(labels[phase], before + done, total)


def _checked(
    location: str, before: int, total: int, on_bytes: OnBytes
) -> Callable[[int, int], None]:
    return lambda done, of: on_bytes(f"verifying {location}", before + done, total)
