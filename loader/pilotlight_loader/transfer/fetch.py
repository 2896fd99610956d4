"""Reader threads that bring parts in order, try again what failed and hedge what is slow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from traceback import clear_frames

from pilotlight_loader.errors import LoaderError, LoadFailedError, TransientReadError
from pilotlight_loader.sources.source import ByteSource, Reader
from pilotlight_loader.transfer.board import Attempt, Board
from pilotlight_loader.transfer.landing import Landing, Room
from pilotlight_loader.transfer.parts import Part
from pilotlight_loader.transfer.policies import HedgePolicy, NoRetry, RetryDelays
from pilotlight_loader.transfer.readers import Readers, readers_for

JOIN_S = 30.0  # an aborted read_into ends soon; one that hangs in the kernel may not


@dataclass(frozen=True, slots=True)
class FetchCounts:
    """What a fetch did so far."""

    nbytes: int
    retries: int
    hedges: int
    first_start_s: float | None  # by the clock that was given
    last_end_s: float | None


class Fetch:
    """Reads all parts, once allow() has let them; owns its threads from start() to join()."""

    def __init__(
        self,
        parts: Sequence[Part],
        sources: Mapping[str, ByteSource],
        landing: Landing,
        *,
        on_error: Callable[[BaseException], None],
        readers: int | None = None,
        retry: RetryDelays | None = None,
        hedge: HedgePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*on_error* is called once, from a reader's thread, with what ended the fetch."""
        count = readers_for(sources, len(parts), readers)
        self._board = Board(parts, count, hedge)
        self._sources = sources
        self._landing = landing
        self._on_error = on_error
        self._retry = retry or NoRetry()
        self._clock = clock
        self._changed = threading.Condition()
        self._stopped = False
        self._held: dict[int, Room] = {}  # hedges that won while the slow reader was still in
        self._nbytes = 0
        self._retries = 0
        self._first_start_s: float | None = None
        self._last_end_s: float | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"pilotlight-read-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the readers."""
        for thread in self._threads:
            thread.start()

    def allow(self, limit: int) -> None:
        """Let parts below *limit* be read."""
        with self._changed:
            self._board.allow(limit)
            self._changed.notify_all()

    def counts(self) -> FetchCounts:
        with self._changed:
            return FetchCounts(
                nbytes=self._nbytes,
                retries=self._retries,
                hedges=self._board.hedges,
                first_start_s=self._first_start_s,
                last_end_s=self._last_end_s,
            )

    def stop(self) -> None:
        """Abort every reader and begin nothing more; returns at once. Idempotent."""
        with self._changed:
            self._stopped = True
            for attempt in self._board.running():
                attempt.abort()
            self._changed.notify_all()
        self._landing.close()

    def join(self) -> None:
        """Wait for the threads after stop(), or after the last part. Raises LoadFailedError."""
        deadline_s = time.monotonic() + JOIN_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:  # they keep what they write to alive, so nothing is overwritten
            raise LoadFailedError(f"{', '.join(stuck)} did not end within {JOIN_S:g} s")

    def _run(self) -> None:
        readers = Readers(self._sources)
        try:
            self._read_all(readers)
        except BaseException as error:  # whatever a source's client may raise ends the load
            # Who keeps the error would keep the staging buffers that its frames refer to.
            clear_frames(error.__traceback__)
            self._fail(error)
        finally:
            readers.close()

    def _read_all(self, readers: Readers) -> None:
        while (room := self._landing.take()) is not None:
            attempt = self._next_attempt()
            if attempt is None:
                room.give_back()
                return
            self._read(attempt, room, readers)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            first, self._stopped = not self._stopped, True
        self.stop()
        if first:
            self._on_error(error)

    def _next_attempt(self) -> Attempt | None:
        """Wait for something to do; None when nothing is left, or the fetch was stopped."""
        with self._changed:
            while not self._stopped and not self._board.all_done:
                now_s = self._clock()
                attempt = self._board.begin(now_s)
                if attempt is not None:
                    if self._first_start_s is None:
                        self._first_start_s = now_s
                    return attempt
                # Until a part ends, turns slow, or is allowed: that may take a consumer hours.
                self._changed.wait(self._board.slow_in_s(now_s))
            return None

    def _read(self, attempt: Attempt, room: Room, readers: Readers) -> None:
        """Read one part and settle who keeps which room."""
        try:
            filled = self._fill(attempt, room, readers)
        except BaseException:
            self._lose(attempt, room)
            raise
        if filled:
            self._finish(attempt, room)
        else:
            self._lose(attempt, room)
        # Only now that it has left can nobody abort it any more: not even after the last byte.
        if attempt.aborted:
            readers.drop(attempt.part.file)

    def _fill(self, attempt: Attempt, room: Room, readers: Readers) -> bool:
        """Read the part, again where that may help; False when nobody needs it any more."""
        view = room.view(attempt.part, apart=attempt.is_hedge)
        failures = 0
        while (reader := self._enter(attempt, readers)) is not None:
            try:
                reader.read_into(attempt.part.start, view)
            except LoaderError as error:
                readers.drop(attempt.part.file)
                failures += 1
                if not self._waits_after(attempt, failures, error):
                    return False
            else:
                return True
        return False

    def _enter(self, attempt: Attempt, readers: Readers) -> Reader | None:
        """The reader to use now, where this part is still to be read."""
        reader = readers.get(attempt.part.file)
        with self._changed:
            if self._is_over(attempt):
                return None
            attempt.reader = reader
            return reader

    def _waits_after(self, attempt: Attempt, failures: int, error: LoaderError) -> bool:
        """Back off; False where there is no next time. Raises *error* if it ends the fetch."""
        with self._changed:
            attempt.reader = None
            if self._is_over(attempt):
                return False
            delay_s = self._retry.delay_s(failures, error, random.random)
            if delay_s is not None:
                self._retries += 1
                self._changed.wait_for(lambda: self._is_over(attempt), delay_s)
                return True
            # The first reader is still at work: a hedge may break down. But where the object
            # itself is wrong, nobody may go on.
            if attempt.is_hedge and isinstance(error, TransientReadError):
                return False
            raise error

    def _is_over(self, attempt: Attempt) -> bool:
        return self._stopped or self._board.is_done(attempt.part)

    def _finish(self, attempt: Attempt, room: Room) -> None:
        """All bytes are in the room: the first reader's room lands, another's is given back."""
        part = attempt.part
        with self._changed:
            attempt.reader = None
            self._board.leave(attempt)
            won = not self._stopped and self._board.finish(attempt, self._clock())
            held = self._held.pop(part.index, None)
            if won:
                self._nbytes += part.nbytes
                self._last_end_s = self._clock()
                rivals = self._board.running(part)
                for rival in rivals:
                    rival.abort()
                # Where the slow reader writes to the very place, its last byte is waited for.
                if rivals and attempt.is_hedge and self._landing.in_place:
                    self._held[part.index] = room
            self._changed.notify_all()
            waits = part.index in self._held
        if not won:
            room.give_back()
        elif not waits:
            room.landed(part)
        if held is not None:
            held.landed(part)

    def _lose(self, attempt: Attempt, room: Room) -> None:
        """Another reader has the part, or the fetch is over."""
        with self._changed:
            attempt.reader = None
            self._board.leave(attempt)
            held = None if attempt.is_hedge else self._held.pop(attempt.part.index, None)
            self._changed.notify_all()
        room.give_back()
        if held is not None:
            held.landed(attempt.part)
