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
        return self._apply(self._read(self._records()))

    def renew_soon(self) -> None:
        """A worker has come, which has read what its links give, if it was measured anew."""
        self._tasks.spawn(self._renew())

    async def _renew(self) -> None:
        if self._apply(await asyncio.to_thread(self._read, self._records())):
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

    def _apply(self, facts: dict[str, StartFacts]) -> bool:
        for model in self._cluster.models.values():
            found = facts.get(model.revision_id)
            if found is not None:
                others = self._records()
                model.configure(self._book.foretell_again(model.record, found, others))
        if facts:
            logger.info("foretold_again models=%d: another machine, or other links", len(facts))
        return bool(facts)
