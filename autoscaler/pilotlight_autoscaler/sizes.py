"""How large workers are, and which share of one a replica takes."""

from __future__ import annotations

from collections.abc import Iterable

from pilotlight_autoscaler.worker_view import WorkerView, share_of_worker


class Sizes:
    """Of all workers; while there are none, those of the last ones."""

    __slots__ = ("largest_bytes", "most_slots", "total_bytes")

    def __init__(self) -> None:
        self.total_bytes = 0
        self.most_slots = 0  # of a worker
        self.largest_bytes = 0

    def are(self, nbytes: int, slots: int) -> bool:
        """Whether a worker is as large as the largest: then nothing is to be measured."""
        return nbytes == self.largest_bytes and slots == self.most_slots

    def measure(self, workers: Iterable[WorkerView]) -> bool:
        """Whether the largest is another than before."""
        sizes = [(each.capacity_bytes, each.snapshot.max_replicas) for each in workers]
        if not sizes:
            return False
        old = (self.largest_bytes, self.most_slots)
        self.largest_bytes = max(nbytes for nbytes, _ in sizes)
        self.most_slots = max(slots for _, slots in sizes)
        return (self.largest_bytes, self.most_slots) != old

    def share(self, nbytes: int) -> float:
        """Of the largest worker."""
        return share_of_worker(nbytes, self.largest_bytes, self.most_slots)
