"""What happens when: events in the order of their times, then of their coming."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from heapq import heappush
from typing import Any

Act = Callable[[int, Any], None]
NEVER_US = 1 << 62


class Agenda:
    """A heap of ``(at_us, order, act, about)``; the loop pops it."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Act, Any]] = []
        self._order = itertools.count()

    def at(self, at_us: int, act: Act, about: Any = None) -> None:
        heappush(self.heap, (at_us, next(self._order), act, about))


class Once:
    """One pending call at the earliest of the times that were asked for."""

    def __init__(self, agenda: Agenda, act: Callable[[int], None]) -> None:
        self._agenda = agenda
        self._act = act
        self.at_us = NEVER_US

    def by(self, at_us: int) -> None:
        if at_us < self.at_us:
            self.at_us = at_us
            self._agenda.at(at_us, self._fire)

    def _fire(self, now_us: int, _: None) -> None:
        if now_us == self.at_us:  # else an earlier one was asked for after this, and has been
            self.at_us = NEVER_US
            self._act(now_us)
