"""A value that changes: readers see the newest, never a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One writer, any number of readers, on one event loop. A slow reader skips values."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def values(self) -> AsyncIterator[T]:
        """The value now, then after each change; never ends by itself."""
        seen = -1
        while True:
            if seen == self._version:
                await self._changed.wait()
            seen = self._version
            yield self._value
