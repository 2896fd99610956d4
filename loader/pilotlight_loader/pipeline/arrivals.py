"""Which parts have arrived, and with which copy: what consumers wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from pilotlight_loader.devices.device import CopyEvent
from pilotlight_loader.errors import LoadFailedError

# Of nothing at all: a retried read gives up long before, and 16 MiB at 100 kB/s take 160 s.
STALL_S = 300.0


class Arrivals:
    """One transfer's parts. Thread-safe."""

    def __init__(self, parts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._clock = clock
        self._at_s: list[float | None] = [None] * parts
        self._events: list[CopyEvent | None] = [None] * parts
        self._count = 0
        self._error: LoadFailedError | None = None
        self._is_held = False  # nothing is read yet, so nothing can have stalled

    def arrived(self, part: int, event: CopyEvent | None) -> None:
        """The bytes are in place, or will be when the copy of *event* has ended."""
        with self._changed:
            self._events[part] = event
            self._at_s[part] = self._clock()
            self._count += 1
            self._changed.notify_all()

    def hold(self) -> None:
        """Nothing is read until go_on(): that takes its time, and has a bound of its own."""
        with self._changed:
            self._is_held = True

    def go_on(self) -> None:
        """Readers are at work: from now on silence counts."""
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def fail(self, error: LoadFailedError) -> None:
        """Nothing more will arrive: whoever waits, or will wait, gets *error*. The first counts."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    @property
    def error(self) -> LoadFailedError | None:
        with self._changed:
            return self._error

    def at_s(self, parts: Sequence[int]) -> float | None:
        """When the last of *parts* arrived; None while one is missing, or there are none."""
        with self._changed:
            times = [self._at_s[part] for part in parts]
        known = [time_s for time_s in times if time_s is not None]
        return max(known) if known and len(known) == len(times) else None

    def events(self) -> list[CopyEvent]:
        """Of all copies so far."""
        with self._changed:
            return [event for event in self._events if event is not None]

    def wait(self, parts: Sequence[int], timeout_s: float | None = None) -> list[CopyEvent]:
        """Wait until *parts* have arrived; their copies may still be under way.

        Raises the error of a load that failed, LoadFailedError when no part arrives at all for
        STALL_S, TimeoutError after *timeout_s*.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            for part in parts:
                while self._at_s[part] is None and self._error is None:
                    self._wait_for_any(deadline_s)
                if self._error is not None:
                    # A new one each time: several threads may raise it, each with its traceback.
                    raise type(self._error)(*self._error.args) from self._error.__cause__
            return [event for part in parts if (event := self._events[part]) is not None]

    def _wait_for_any(self, deadline_s: float | None) -> None:
        """Return after an arrival, or a failure; there may have been none."""
        count = self._count
        left_s = STALL_S if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"{len(self._at_s) - count} parts have not arrived yet")
        is_held = self._is_held
        woken = self._changed.wait(min(left_s, STALL_S))
        if woken or is_held or left_s < STALL_S:
            return
        if count == self._count and self._error is None:
            self._error = LoadFailedError(f"no part arrived within {STALL_S:g} s")
            self._changed.notify_all()
