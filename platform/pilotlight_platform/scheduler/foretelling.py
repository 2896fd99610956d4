"""What cold starts will take, told of each live model, and again where the machine is another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.cold_starts import (
    ColdStartBook,
    StartFacts,
    read_rates,
    read_start_facts,
)
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.schemas.model import ModelRecord

logger = logging.getLogger("pilotlight.scheduler")


class Foretelling:
    """Lives on the scheduler's event loop; *step* asks it to decide again.

    What is foretold again is not stored: it is again at the next start.
    """

    def __init__(
        self,
        home: Path,
        cluster: Cluster,
        book: ColdStartBook,
        tasks: Tasks,
        step: Callable[[], None],
    ) -> None:
        self._home = home
        self._cluster = cluster
        self._book = book
        self._tasks = tasks
        self._step = step

    async def of(self, record: ModelRecord) -> ModelRecord:
        """*record* with what its cold starts will take, as it goes live."""
        facts = await asyncio.to_thread(read_start_facts, self._home, Path(record.revision.path))
        return self._book.foretell(record, facts, self._records())

    def renew(self) -> bool:
        """At the start, before anything is decided. Whether anything had to be foretold again."""
        facts = self._read(self._records())
        return self._noted(sum(self._again(name, facts) for name in self._cluster.models))

    def renew_soon(self) -> None:
        """A worker has come, which has read what its links give, if it was measured anew."""
        self._tasks.spawn(self._renew())

    async def _renew(self) -> None:
        facts = await asyncio.to_thread(self._read, self._records())
        count = 0
        for name in tuple(self._cluster.models):
            if self._again(name, facts):
                count += 1
                await asyncio.sleep(0)  # one of 1,000 takes 2 ms: requests go first
        if self._noted(count):
            self._step()

    def _records(self) -> list[ModelRecord]:
        return [model.record for model in self._cluster.models.values()]

    def _read(self, records: list[ModelRecord]) -> dict[str, StartFacts]:
        """By revision, of those that were foretold on something else."""
        rates = read_rates(self._home)
        return {
            each.revision.id: read_start_facts(self._home, Path(each.revision.path))
            for each in records
            if self._book.is_stale(each, rates)
        }

    def _again(self, name: str, facts: dict[str, StartFacts]) -> bool:
        """Foretell one model again, unless that has been done, or it has gone meanwhile."""
        model = self._cluster.models.get(name)
        found = None if model is None else facts.get(model.revision_id)
        if model is None or found is None:
            return False
        if not self._book.is_stale(model.record, found.bytes_per_s):
            return False
        model.configure(self._book.foretell_again(model.record, found, self._records()))
        return True

    def _noted(self, count: int) -> bool:
        if count:
            logger.info("foretold_again models=%d: another machine, or other links", count)
        return count > 0
