"""A store of which the cache has some files: those are read from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.errors import CacheError
from pilotlight_loader.sources.local import LocalStore
from pilotlight_loader.sources.source import ByteSource, Store


class CachedStore:
    """*store*, each file still pinned to its present version there; owns it, and the leases."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._held = ExitStack()
        self._held.callback(store.close)

    @property
    def location(self) -> str:
        return self._store.location

    def open(self, name: str) -> ByteSource:
        source = self._store.open(name)
        lease = self._lease(source)
        if lease is None:
            return source
        source.close()
        self._held.enter_context(lease)
        blobs = self._held.enter_context(LocalStore(lease.path.parent))
        return blobs.open(lease.path.name)

    def names(self) -> Sequence[str] | None:
        return self._store.names()

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lease(self, source: ByteSource) -> Lease | None:
        if "://" not in source.location:  # a file of this machine, the hub's own cache too
            return None
        try:
            return self._cache.lease(ObjectIdentity.of(source))
        except CacheError:  # its disk may be broken: the source is not
            return None
