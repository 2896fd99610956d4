"""Whether and when to try a read again. A pure schedule; only `retried` sleeps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pilotlight_loader.errors import LoaderError, TransientReadError

# A server that asks for more time than this is taken at its word: the read fails, with its wish
# in the message, and who loads decides. It bounds all waits of one read to attempts x 30 s.
MAX_RETRY_AFTER_S = 30.0
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter, which spreads readers that failed together."""

    attempts: int = 5
    first_s: float = 0.1
    max_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.max_s:
            raise ValueError(f"{self}: needs attempts >= 1 and 0 <= first_s <= max_s")

    def delay_s(
        self, attempt: int, error: LoaderError, random: Callable[[], float]
    ) -> float | None:
        """How long to wait after failed *attempt* (the first is 1); None: give up.

        *random* gives numbers in [0, 1). Never earlier than the server asked for.
        """
        if not isinstance(error, TransientReadError) or attempt >= self.attempts:
            return None
        asked_s = error.retry_after_s or 0.0
        if asked_s > MAX_RETRY_AFTER_S:
            return None
        doublings = min(attempt - 1, 60)  # beyond, 2.0**n only grows to overflow
        return float(max(asked_s, random() * min(self.max_s, self.first_s * 2.0**doublings)))


def retried(
    action: Callable[[], _Result],
    policy: RetryPolicy,
    sleep: Callable[[float], None] = time.sleep,
) -> _Result:
    """Call *action* until it succeeds or *policy* gives up; then its last error is raised."""
    attempt = 1
    while True:
        try:
            return action()
        except TransientReadError as error:
            delay_s = policy.delay_s(attempt, error, random.random)
            if delay_s is None:
                raise
        sleep(delay_s)
        attempt += 1
