"""What a load needs of a disk tier; pilotlight_loader.Cache is one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from pilotlight_loader.sources.source import ByteSource


class CacheEntry(Protocol):
    """One object on its way into the cache. Thread-safe."""

    @property
    def nbytes(self) -> int:
        """Of the whole object."""

    def write(self, start: int, view: memoryview) -> Future[None] | None:
        """Take the bytes at *start*; *view* may be used again when the future is done.

        Never blocks: None while the disk has enough to do. Once abandoned, every future is soon
        done.
        """

    def missing(self) -> Sequence[tuple[int, int]]:
        """The spans [start, end) that nobody has written yet."""

    def publish(self) -> None:
        """All bytes are there: make the object visible, atomically."""

    def abandon(self, *, keep: bool = True) -> None:
        """Nothing more comes; what is there may serve a later attempt if *keep*. Idempotent."""


class Tier(Protocol):
    """The disk tier in the way of one load."""

    @property
    def sources(self) -> Mapping[str, ByteSource]:
        """Where to read each file from: the cache, where it has it."""

    def begin(self, file: str, /) -> CacheEntry | None:
        """None where *file* is in the cache already. Raises what keeps the cache from it."""


class Cache(Protocol):
    """What `load` needs of the disk tier; pilotlight_loader.Cache is one."""

    def tier(
        self, sources: Mapping[str, ByteSource], /, *, cancel: threading.Event
    ) -> AbstractContextManager[Tier]:
        """May take minutes, while another process fetches the same.

        Raises LoadCancelledError soon after *cancel* was set.
        """
