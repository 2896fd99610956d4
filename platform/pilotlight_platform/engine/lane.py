"""The requests of one replica, in turns: let one in, then decode one step."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from transformers import DynamicCache

from pilotlight_platform.engine.batch import Batch, cache_nbytes, prefill
from pilotlight_platform.engine.cache import CacheGrowth
from pilotlight_platform.engine.cache_room import CacheRoom
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.sequence import Sequence
from pilotlight_platform.engine.ticket import Ticket
from pilotlight_platform.errors import EngineError, PlatformError
from pilotlight_platform.schemas.generation import GenerationChunk
from pilotlight_platform.schemas.timeline import Span

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    ticket: Ticket
    sequence: Sequence
    admitted_s: float
    held: bool = False  # it has waited for room
    decode_start_s: float = 0.0  # 0: it has no token yet
    stage_owed: bool = False  # the cold request's first chunk came before the last page was read


class Lane:
    """Belongs to the compute thread. Rows that cannot share a cache get a batch each."""

    def __init__(self, replica: Replica, max_batch: int, room: CacheRoom) -> None:
        self._replica = replica
        self._skeleton = replica.skeleton
        self._max_batch = max_batch
        self._room = room
        self._waiting: deque[Ticket] = deque()
        self._held: deque[_Running] = deque()  # encoded, or paused: the oldest first
        self._running: dict[Sequence, _Running] = {}
        self._batches: list[Batch] = []
        self._cold = True  # no answer since the replica was attached

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._held or self._running)

    @property
    def running(self) -> int:
        """Requests whose keys and values are held."""
        return len(self._running)

    @property
    def youngest(self) -> int:
        """Arrival number of the last one of them that came."""
        return max(running.ticket.arrival for running in self._running.values())

    def pause_youngest(self) -> None:
        """Give its keys and values up; they are computed again when there is room."""
        paused = max(self._running.values(), key=lambda running: running.ticket.arrival)
        logger.info(
            "cache_full paused=%s tokens=%d",
            paused.ticket.request.request_id,
            paused.sequence.length,
        )
        del self._running[paused.sequence]
        paused.held = True
        self._held.appendleft(paused)  # it is older than all that wait
        self._keep_running()
        self._note_room()

    def add(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)
        self._note_room()

    def turn(self) -> None:
        """Forget the cancelled, admit at most one request, decode one step of every row.

        Raises:
            ReplicaGoneError: if the replica has been detached.
        """
        with self._replica.in_use():
            self.reap()
            if not self._full:
                self._admit()
            self._merge()
            for batch in list(self._batches):
                self._decode(batch)
            self._batches = [batch for batch in self._batches if batch.rows]
            self._note_room()

    def fail_all(self, error_for: Callable[[Ticket], PlatformError]) -> None:
        begun = [*self._held, *self._running.values()]
        tickets = [*self._waiting, *(running.ticket for running in begun)]
        self._waiting.clear()
        self._held.clear()
        self._running.clear()
        self._batches.clear()
        self._room.forget(self)
        for ticket in tickets:
            ticket.fail(error_for(ticket))

    def reap(self) -> None:
        """Let go of the cancelled."""
        for ticket in [ticket for ticket in self._waiting if ticket.cancelled]:
            self._waiting.remove(ticket)
            ticket.settle()
        for held in [held for held in self._held if held.ticket.cancelled]:
            self._held.remove(held)
            held.ticket.settle()
        cancelled = [running for running in self._running.values() if running.ticket.cancelled]
        for running in cancelled:
            del self._running[running.sequence]
            running.ticket.settle()
        if cancelled:
            self._keep_running()
            self._note_room()

    @property
    def _full(self) -> bool:
        return len(self._running) >= self._max_batch

    def _admit(self) -> None:
        """Start at most one request, the oldest that waits, if there is room for it."""
        if self._waiting:
            self._encode(self._waiting.popleft())
        if self._held:
            if self._has_room(self._held[0]):
                self._start(self._held.popleft())
            else:
                for running in self._held:
                    running.held = True

    def _encode(self, ticket: Ticket) -> None:
        admitted_s = time.time()
        try:
            sequence = Sequence(self._skeleton, ticket.request)
        except Exception as error:  # a prompt that cannot be: this request's failure alone
            ticket.fail(_as_platform_error(error, ticket))
        else:
            self._held.append(_Running(ticket, sequence, admitted_s))

    def _has_room(self, running: _Running) -> bool:
        growth = self._skeleton.cache_growth
        if growth is None:  # its rehearsal, which waits for nobody: a cold start waits for it
            return True
        alone = cache_nbytes(growth, 1, running.sequence.length)
        return self._batch_for(running) is not None or self._admits(running, alone)

    def _batch_for(self, running: _Running) -> Batch | None:
        """One that has room for it as one more row, padding included; else it is a batch alone."""
        for batch in self._batches:
            more = batch.nbytes_with(1, running.sequence.length) - batch.nbytes
            if batch.shared and self._admits(running, more):
                return batch
        return None

    def _merge(self) -> None:
        """Make one batch of two that were kept apart, where padding fits by now.

        Each is a pass over all weights in every step.
        """
        shared = [batch for batch in self._batches if batch.shared]
        for ours, theirs in pairwise(shared):
            merged = ours.nbytes_with(len(theirs.rows), theirs.columns)
            if self._room.spares(merged - ours.nbytes - theirs.nbytes):
                ours.join(theirs)
                self._batches.remove(theirs)
                return

    def _admits(self, running: _Running, nbytes: int) -> bool:
        return self._room.admits(running.ticket.arrival, nbytes)

    def _start(self, running: _Running) -> None:
        """The first token, or the keys and values again of a request that was paused."""
        sequence = running.sequence
        start_s = time.time() if running.held else running.admitted_s
        try:
            logits, cache = prefill(self._skeleton, sequence)
            chunk = None if running.decode_start_s else sequence.accept(logits)
        except Exception as error:  # whatever a model raises is this request's failure alone
            running.ticket.fail(_as_platform_error(error, running.ticket))
            return
        if self._skeleton.cache_growth is None:
            self._skeleton.cache_growth = CacheGrowth.of(cache)
        if chunk is not None:  # the first token always makes one
            spans, running.stage_owed = self._cold_spans()
            if running.held:
                spans.append(Span("room", running.admitted_s, start_s))
            running.decode_start_s = time.time()
            spans.append(Span("prefill", start_s, running.decode_start_s))
            self._emit(running, replace(chunk, spans=tuple(spans)))
        if sequence.finish_reason is None:
            self._running[sequence] = running
            self._place(running, cache)

    def _note_room(self) -> None:
        oldest = None
        if not self._full:  # else they wait for a place, and hold nobody else back
            held = self._held[0].ticket if self._held else None
            first = held or (self._waiting[0] if self._waiting else None)
            oldest = None if first is None else first.arrival
        self._room.note(self, sum(batch.nbytes for batch in self._batches), oldest)

    def _place(self, running: _Running, cache: DynamicCache) -> None:
        new = Batch(self._skeleton, running.sequence, cache)
        batch = self._batch_for(running) if new.shared else None
        if batch is None:
            self._batches.append(new)
        else:
            batch.join(new)

    def _cold_spans(self) -> tuple[list[Span], bool]:
        if not self._cold:
            return [], False
        self._cold = False
        spans = self._replica.spans
        return spans, not any(span.name == "stage" for span in spans)

    def _decode(self, batch: Batch) -> None:
        try:
            logits = batch.step()
        except Exception as error:  # takes the rows of this batch with it, nobody else
            for sequence in batch.rows:
                ticket = self._running.pop(sequence).ticket
                ticket.fail(_as_platform_error(error, ticket))
            batch.keep([])
            return
        for sequence, row in zip(batch.rows, logits, strict=True):
            self._advance(self._running[sequence], row)
        self._keep_rows(batch)

    def _advance(self, running: _Running, logits: torch.Tensor) -> None:
        try:
            chunk = running.sequence.accept(logits)
        except Exception as error:
            del self._running[running.sequence]
            running.ticket.fail(_as_platform_error(error, running.ticket))
            return
        if running.sequence.finish_reason is not None:
            del self._running[running.sequence]
        if chunk is not None:
            self._emit(running, chunk)

    def _emit(self, running: _Running, chunk: GenerationChunk) -> None:
        if chunk.finish_reason is None:
            running.ticket.send(chunk)
            return
        spans = [*chunk.spans, Span("decode", running.decode_start_s, time.time())]
        if running.stage_owed:
            spans.extend(span for span in self._replica.spans if span.name == "stage")
        running.ticket.finish(replace(chunk, spans=tuple(spans)))

    def _keep_running(self) -> None:
        for batch in self._batches:
            self._keep_rows(batch)
        self._batches = [batch for batch in self._batches if batch.rows]

    def _keep_rows(self, batch: Batch) -> None:
        batch.keep([i for i, sequence in enumerate(batch.rows) if sequence in self._running])


def _as_platform_error(error: Exception, ticket: Ticket) -> PlatformError:
    if isinstance(error, PlatformError):
        return error
    logger.error("forward_failed request_id=%s", ticket.request.request_id, exc_info=error)
    # Not chained: the traceback would keep the cache alive for as long as the error travels.
    return EngineError(f"the model failed while it ran: {type(error).__name__}: {error}")
