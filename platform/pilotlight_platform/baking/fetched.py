"""A source that is elsewhere, as a directory of this machine: its files come from the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pilotlight_loader import Cache, LoaderError, ObjectIdentity, open_checkpoint
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.pull import PullPhase, pull
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.retry import RetryPolicy
from pilotlight_loader.sources.source import ByteSource
from pilotlight_platform.engine.checked_source import Report
from pilotlight_platform.errors import SourceError

_EVICTED_TRIES = 3  # something else may take the room between the end of a pull and the lease


@contextmanager
def local_source(
    location: str, cache_dir: Path, cache_bytes: int | None, workspace: Path, report: Report
) -> Iterator[Path]:
    """The directory of *location*; one made of links under *workspace* where that is remote.

    Raises SourceError, which names *location* and not the links.
    """
    try:
        where = parse_location(location)
        if where.scheme == "file":
            yield Path(where.directory, where.file_name or "")
            return
        if where.file_name is not None:
            raise SourceError(f"{where}: one file; name the directory, it needs a config.json too")
        with ExitStack() as held:
            cache = Cache(cache_dir, cache_bytes)
            linked = _link(str(where), cache, workspace, held, report)
            try:
                yield linked
            except SourceError as error:
                raise SourceError(error.message.replace(str(linked), str(where))) from error
    except LoaderError as error:
        raise SourceError(str(error)) from error


def _link(location: str, cache: Cache, workspace: Path, held: ExitStack, report: Report) -> Path:
    """A directory whose files are links to leased blobs; *held* gives all of it back."""
    report("fetch", f"opening {location}", 0, 0)
    checkpoint = held.enter_context(open_checkpoint(location))
    folder = Path(
        held.enter_context(
            tempfile.TemporaryDirectory(prefix="source.", suffix=".part", dir=workspace)
        )
    )
    sources = {
        name: checkpoint.source(name) for name in (*checkpoint.files, *checkpoint.side_files)
    }
    total = sum(source.version.nbytes for source in sources.values())
    done = 0
    for name, source in sources.items():
        lease = held.enter_context(_leased(source, cache, _progress(name, done, total, report)))
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(lease.path)
        done += source.version.nbytes
    report("fetch", f"fetched {len(sources)} files", total, total)
    return folder


def _leased(
    source: ByteSource, cache: Cache, progress: Callable[[PullPhase, int, int], None]
) -> Lease:
    for _ in range(_EVICTED_TRIES):
        lease = cache.lease(ObjectIdentity.of(source))
        if lease is not None:
            return lease
        pull(source, cache, retries=RetryPolicy(), progress=progress)
    raise SourceError(
        f"{source.location}: evicted from the cache as soon as it was there: raise "
        "PILOTLIGHT_CACHE_BYTES"
    )


def _progress(
    name: str, before: int, total: int, report: Report
) -> Callable[[PullPhase, int, int], None]:
    return lambda _phase, done, _of: report("fetch", f"fetching {name}", before + done, total)
