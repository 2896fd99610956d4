"""Work under way on the scheduler's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Holds what it starts until it has ended: a loop keeps no reference to a task."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def unbroken(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry *change* out even if whoever asked for it goes away half-way."""
        return await asyncio.shield(self.spawn(change))
