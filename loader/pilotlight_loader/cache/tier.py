"""The disk tier in the way of one load: what it has is read from it, what it lacks goes into it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.resumed import ResumedSource
from pilotlight_loader.errors import CacheError, LoaderError
from pilotlight_loader.sources.local import LocalStore
from pilotlight_loader.sources.source import ByteSource

if TYPE_CHECKING:
    from pilotlight_loader.cache.cache import Cache

# For other processes that fetch the same, in all. After that it is read without the cache.
FOLLOW_TIMEOUT_S = 600.0


class DiskTier:
    """A context manager: leaving it ends fills and leases. A cache that fails is passed by."""

    def __init__(
        self,
        cache: Cache,
        sources: Mapping[str, ByteSource],
        *,
        cancel: threading.Event | None = None,
        follow_timeout_s: float = FOLLOW_TIMEOUT_S,
    ) -> None:
        """Waits for whoever fetches one of *sources* already. Raises LoadCancelledError."""
        self._held = ExitStack()
        self._fillings: dict[str, Filling] = {}
        self._errors: dict[str, LoaderError] = {}
        self.sources: dict[str, ByteSource] = dict(sources)  # where to read each file from
        with ExitStack() as failed:
            failed.callback(self._held.close)
            deadline_s = time.monotonic() + follow_timeout_s
            # In one order for all processes: two that hold what the other waits for would wait
            # for ever.
            for file in sorted(sources, key=lambda file: ObjectIdentity.of(sources[file]).key):
                if "://" in sources[file].location:  # else it is on this machine's disk already
                    left_s = max(0.0, deadline_s - time.monotonic())
                    self._resolve(file, sources[file], cache, cancel, left_s)
            failed.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def begin(self, file: str) -> FillingEntry | None:
        """Where the bytes of *file* are to be written; None where nobody wants them.

        Raises the LoaderError that kept the cache from taking part.
        """
        if file in self._errors:
            raise self._errors[file]
        filling = self._fillings.get(file)
        return None if filling is None else FillingEntry(filling)

    def _resolve(
        self,
        file: str,
        source: ByteSource,
        cache: Cache,
        cancel: threading.Event | None,
        follow_timeout_s: float,
    ) -> None:
        try:
            found = cache.claim(ObjectIdentity.of(source), follow_timeout_s, cancel)
        except CacheError as error:  # as where no disk is left: the load does not need it
            self._errors[file] = error
            return
        self._held.enter_context(found)
        if isinstance(found, Lease):
            store = self._held.enter_context(LocalStore(found.path.parent))
            self.sources[file] = self._held.enter_context(closing(store.open(found.path.name)))
        else:
            self._fillings[file] = found
            self.sources[file] = ResumedSource(source, found)


class FillingEntry:
    """A Filling whose writes are futures. Thread-safe."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling

    @property
    def nbytes(self) -> int:
        return self._filling.identity.nbytes

    def write(self, start: int, view: memoryview) -> Future[None] | None:
        """Take the bytes at *start*; *view* may be used again when the future is done.

        Never blocks: None where so many bytes are on their way that no more are taken now.
        """
        written: Future[None] = Future()
        if self._filling.write(start, view, partial(written.set_result, None), wait=False):
            return written
        if self._filling.is_open:
            return None
        refused: Future[None] = Future()
        ended = CacheError(f"{self._filling.identity.location}: the fill has ended")
        refused.set_exception(self._filling.error or ended)
        return refused

    def missing(self) -> list[tuple[int, int]]:
        """The spans [start, end) that nobody has written yet."""
        return [(gap.start, gap.end) for gap in self._filling.missing()]

    def publish(self) -> None:
        """Make the object visible. Raises CacheError, DiskFullError."""
        self._filling.publish().close()

    def abandon(self, *, keep: bool = True) -> None:
        """Idempotent. What is there stays for the next leader if *keep*."""
        self._filling.abandon(keep=keep)
