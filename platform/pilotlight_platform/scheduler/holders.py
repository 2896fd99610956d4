"""Which workers have replicas of a model, kept as they change so that nobody looks at them all."""

from __future__ import annotations

from collections.abc import Iterable

from pilotlight_platform.schemas.cluster import ReplicaReport


class Holders:
    """An index of worker ids by model, in the order in which they came to hold it."""

    def __init__(self) -> None:
        self._workers: dict[str, dict[str, None]] = {}  # by model; a dict keeps the order
        self._models: dict[str, set[str]] = {}  # by worker

    def put(self, worker_id: str, replicas: Iterable[ReplicaReport]) -> set[str]:
        """These are all of the worker's replicas now; returns the models it has, or had."""
        before = self._models.get(worker_id, set())
        after = {replica.model for replica in replicas}
        if before == after:
            return after
        for name in before - after:
            holders = self._workers[name]
            del holders[worker_id]
            if not holders:
                del self._workers[name]
        for name in after - before:
            self._workers.setdefault(name, {})[worker_id] = None
        if after:
            self._models[worker_id] = after
        else:
            del self._models[worker_id]
        return before | after

    def of(self, name: str) -> tuple[str, ...]:
        return tuple(self._workers.get(name, ()))
