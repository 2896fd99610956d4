"""Decisions on their way to the store: noted at once, written a little later, bounded."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pydantic import ValidationError

from pilotlight_autoscaler import Attach, Decision, Reason, Rule
from pilotlight_platform.errors import StoreError
from pilotlight_platform.schemas.decision import Action, DecisionRecord

logger = logging.getLogger("pilotlight.scheduler")

_WRITE_AFTER_S = 1.0  # a sync of the disk beside a first prefill would slow it
_RETRY_S = 5.0
_MAX_UNWRITTEN = 10_000

Append = Callable[[Mapping[str, Sequence[bytes]]], Awaitable[None]]
Fetch = Callable[[str], Awaitable[list[bytes]]]


class DecisionLog:
    """Every action, every change of why nothing is done. Lives on one event loop."""

    def __init__(self, append: Append, fetch: Fetch, after_s: float = _WRITE_AFTER_S) -> None:
        self._append = append
        self._fetch = fetch
        self._after_s = after_s
        # While the store is away the oldest go: the newest tell why things are as they are.
        self._unwritten: deque[DecisionRecord] = deque(maxlen=_MAX_UNWRITTEN)
        self._unplaced: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def note(
        self, decision: Decision, at_s: float, evicted: Sequence[tuple[Attach, str]] = ()
    ) -> None:
        """Take down what *decision* does, and what it holds back.

        *evicted*: the models that lose a replica to an attach, which say so in their own list.
        """
        records = [
            *(
                _record(at_s, "prewarm" if each.prewarm else "attach", each.reason, each.worker_id)
                for each in decision.attach
            ),
            *(
                _record(at_s, "evict", _made_room(each, model), each.worker_id)
                for each, model in evicted
            ),
            *(_record(at_s, "detach", each.reason, each.worker_id) for each in decision.detach),
            *(_record(at_s, "drain", each.reason, each.worker_id) for each in decision.drain),
            *(_record(at_s, "hold", reason) for reason in decision.reasons),
        ]
        if decision.pool is not None:
            records.append(_record(at_s, "resize", decision.pool.reason))
        records += [
            _record(at_s, "unplaced", Reason(each.model, Rule.UNPLACED, each.reason))
            for each in decision.unplaced
            if each.model not in self._unplaced  # once, not at every look
        ]
        self._unplaced = {each.model for each in decision.unplaced}
        if records:
            self._unwritten.extend(records)
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write_later())

    async def of(self, model: str, since_s: float) -> list[DecisionRecord]:
        """The kept decisions on *model*, or on the pool (""), since then, oldest first.

        Raises StoreError.
        """
        await self.flush()
        records = []
        for row in await self._fetch(model):
            try:
                records.append(DecisionRecord.model_validate_json(row))
            except ValidationError as error:  # one broken row must not hide the others
                logger.error("decision_unreadable model=%s reason=%s", model, error)
        return [record for record in records if record.at_s >= since_s]

    async def flush(self) -> None:
        """Write what is not written yet. Raises StoreError."""
        async with self._turn:
            batch = list(self._unwritten)
            if not batch:
                return
            rows: dict[str, list[bytes]] = {}
            for record in batch:
                rows.setdefault(record.model, []).append(record.model_dump_json().encode())
            await self._append(rows)
            written = set(map(id, batch))
            while self._unwritten and id(self._unwritten[0]) in written:
                self._unwritten.popleft()

    async def _write_later(self) -> None:
        delay_s = self._after_s
        try:
            while self._unwritten:
                await asyncio.sleep(delay_s)
                delay_s = self._after_s
                try:
                    await self.flush()
                except StoreError as error:
                    logger.warning("decisions_unwritten reason=%s", error)
                    delay_s = _RETRY_S
        finally:
            self._writing = None


def hold_record(reason: Reason, at_s: float) -> DecisionRecord:
    """Why a model, or the pool, is as it is at this moment."""
    return _record(at_s, "hold", reason)


def _made_room(attach: Attach, model: str) -> Reason:
    text = f"made room for {attach.model}: {attach.reason.text}"
    return Reason(model, attach.reason.rule, text, attach.reason.inputs)


def _record(
    at_s: float, action: Action, reason: Reason, worker_id: str | None = None
) -> DecisionRecord:
    return DecisionRecord(
        at_s=at_s,
        model=reason.subject,
        action=action,
        rule=str(reason.rule),
        reason=reason.text,
        worker_id=worker_id,
        inputs=dict(reason.inputs),
    )
