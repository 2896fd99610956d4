"""What happens when: events in the order of their times, then of their coming."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from heapq import heappush
from typing import Any

Act = Callable[[int, Any], None]
NEVER_US = 1 << 62


class Agenda:
    """A heap of ``(at_us, order, act, about)``; the loop pops it.

    What may be asked for early and often is no event: it has one time, the earliest of those.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Act, Any]] = []
        self.decide_us = NEVER_US  # when the policy is to be asked: after the events of that time
        self._order = itertools.count()

    def at(self, at_us: int, act: Act, about: Any = None) -> None:
        heappush(self.heap, (at_us, next(self._order), act, about))

    def decide_by(self, at_us: int) -> None:
        if at_us < self.decide_us:
            self.decide_us = at_us
