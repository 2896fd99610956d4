"""Which part is read next, by how many readers, and who was first. No threads, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_loader.sources.source import Reader
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import HedgePolicy

_LEAST_SHARE = 0.25  # of a whole part: below, the round trip is most of the time
_DURATIONS_KEPT = 64  # the median follows the link when its speed changes


@dataclass(slots=True, eq=False)
class Attempt:
    """One reader's work on one part; `reader` is set while it may be in read_into."""

    part: Part
    is_hedge: bool
    started_s: float
    reader: Reader | None = None
    aborted: bool = False

    def abort(self) -> None:
        """With the fetch's lock held: its reader is in, or about to enter, read_into."""
        self.aborted = True
        if self.reader is not None:
            self.reader.abort()


class Board:
    """The state of all parts of one fetch. Not thread-safe: its owner locks."""

    def __init__(self, parts: Sequence[Part], readers: int, hedge: HedgePolicy | None) -> None:
        self._parts = parts
        self._hedge = hedge
        self._whole_bytes = max((part.nbytes for part in parts), default=1)
        self._hedges_at_once = hedge.at_once(readers) if hedge else 0
        self._next = 0
        self._limit = 0
        self._running: dict[int, list[Attempt]] = {}
        self._done: set[int] = set()
        self._hedged: set[int] = set()
        self._durations_s: deque[float] = deque(maxlen=_DURATIONS_KEPT)
        self.hedges = 0

    @property
    def all_done(self) -> bool:
        return len(self._done) == len(self._parts)

    def allow(self, limit: int) -> None:
        """Parts below *limit* may be begun; it never falls."""
        self._limit = max(self._limit, limit)

    def begin(self, now_s: float) -> Attempt | None:
        """What a free reader does: hedge a slow part, which is needed before all later ones."""
        part = self._slow_part(now_s)
        if part is not None:
            self._hedged.add(part.index)
            self.hedges += 1
        elif self._next < min(self._limit, len(self._parts)):
            part = self._parts[self._next]
            self._next += 1
        else:
            return None
        attempt = Attempt(part, part.index in self._hedged, now_s)
        self._running.setdefault(part.index, []).append(attempt)
        return attempt

    def slow_in_s(self, now_s: float) -> float | None:
        """When the next part becomes slow, if none that runs ends before; None: no such part."""
        ages = [now_s - attempt.started_s for attempt in self._hedgeable()]
        if not ages or self._hedge is None:
            return None
        return max(0.0, self._hedge.slow_after_s(self._durations_s) - max(ages))

    def is_done(self, part: Part) -> bool:
        return part.index in self._done

    def finish(self, attempt: Attempt, now_s: float) -> bool:
        """All bytes were read. True for the first reader of that part to say so."""
        if self.is_done(attempt.part):
            return False
        self._done.add(attempt.part.index)
        # As of a whole part: the short ones at the end of a range say little of the others.
        share = max(attempt.part.nbytes / self._whole_bytes, _LEAST_SHARE)
        self._durations_s.append((now_s - attempt.started_s) / share)
        return True

    def leave(self, attempt: Attempt) -> None:
        """The reader has ended this attempt, and writes nothing any more."""
        rest = self._running[attempt.part.index]
        rest.remove(attempt)
        if not rest:
            del self._running[attempt.part.index]

    def running(self, part: Part | None = None) -> list[Attempt]:
        """The attempts that have not left: at *part*, or all."""
        if part is not None:
            return list(self._running.get(part.index, ()))
        return [attempt for attempts in self._running.values() for attempt in attempts]

    def _slow_part(self, now_s: float) -> Part | None:
        slow_in_s = self.slow_in_s(now_s)
        if slow_in_s is None or slow_in_s > 0:
            return None
        return min(self._hedgeable(), key=lambda attempt: attempt.started_s).part

    def _hedgeable(self) -> list[Attempt]:
        """What runs for the first time, if another hedge is allowed now."""
        running = self.running()
        if sum(attempt.is_hedge for attempt in running) >= self._hedges_at_once:
            return []
        return [
            attempt
            for attempt in running
            if attempt.part.index not in self._hedged and not self.is_done(attempt.part)
        ]
