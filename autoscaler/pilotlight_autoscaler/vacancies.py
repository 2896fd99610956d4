"""The workers that hold nothing, in the order in which they are filled."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from pilotlight_autoscaler.worker_view import WorkerView


class Vacancies:
    """Sorted as it changes, the largest first: most placements need to see only one of them."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        self._order: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        """Their ids."""
        return (worker_id for _, worker_id in self._order)

    def add(self, worker: WorkerView) -> None:
        insort(self._order, (-worker.capacity_bytes, worker.worker_id))

    def remove(self, worker: WorkerView) -> None:
        del self._order[bisect_left(self._order, (-worker.capacity_bytes, worker.worker_id))]
