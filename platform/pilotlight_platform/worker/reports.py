"""What a worker reports of itself: numbered, and a little later than it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pilotlight_platform.latest import Latest
from pilotlight_platform.schemas.cluster import ReplicaReport, WorkerReport

_DELAY_S = 0.1


class Reports:
    """Lives on one event loop; *read* tells what there is."""

    def __init__(self, read: Callable[[], tuple[ReplicaReport, ...]]) -> None:
        self._read = read
        self._count = 0
        self._latest = Latest(WorkerReport())
        self._sending: asyncio.TimerHandle | None = None

    def values(self) -> AsyncIterator[WorkerReport]:
        """The report now, then after each change."""
        return self._latest.values()

    def changed(self) -> None:
        """Report soon: what the scheduler waits for, it learns from the answer to its order.

        At once would be several messages beside the first prefill, on the cores that compute it.
        """
        if self._sending is None:
            self._sending = asyncio.get_running_loop().call_later(_DELAY_S, self._send)

    def make(self) -> WorkerReport:
        """One of this moment: an answer to an order."""
        self._count += 1
        return WorkerReport(self._count, self._read())

    def _send(self) -> None:
        self._sending = None
        self._latest.set(self.make())
