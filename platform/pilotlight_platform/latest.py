"""A value that changes: readers see the newest, never a backlog."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One writer, on any thread; any number of readers, each on its loop. A slow one skips values.

    Serve runs a router on the loop of whoever calls it, or on a thread of its own: which of them
    is the environment's choice, and on a cluster that was joined it is not ours.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._lock = threading.Lock()
        self._readers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        with self._lock:
            self._value = value
            self._version += 1
            readers = tuple(self._readers)
        for loop, changed in readers:
            with suppress(RuntimeError):  # its loop is closed: it reads no more
                loop.call_soon_threadsafe(changed.set)

    async def values(self) -> AsyncIterator[T]:
        """The value now, then after each change; never ends by itself."""
        seen = -1
        changed = asyncio.Event()
        reader = (asyncio.get_running_loop(), changed)
        with self._lock:
            self._readers.add(reader)
        try:
            while True:
                changed.clear()
                with self._lock:
                    version, value = self._version, self._value
                if version == seen:
                    await changed.wait()
                else:
                    seen = version
                    yield value
        finally:
            with self._lock:
                self._readers.discard(reader)
