"""Tells the scheduler how cold starts went, a while afterwards: no request waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from pilotlight_autoscaler import Tier
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.cold_start import ColdAnswer
from pilotlight_platform.schemas.timeline import Timeline

logger = logging.getLogger("pilotlight.gateway")

_DELAY_S = 1.0  # what is sent sooner runs beside the next prefills
_RETRY_S = 5.0
_MAX_WAITING = 256  # the oldest go: a scheduler that is away for long loses some of them

Tell = Callable[[Sequence[ColdAnswer]], Awaitable[None]]


class ColdStartNews:
    """One event loop's. ``close`` stops what is under way."""

    def __init__(self, tell: Tell, delay_s: float = _DELAY_S, retry_s: float = _RETRY_S) -> None:
        self._tell = tell
        self._delay_s = delay_s
        self._retry_s = retry_s
        self._waiting: deque[ColdAnswer] = deque(maxlen=_MAX_WAITING)
        self._sending: asyncio.Task[None] | None = None

    def note(self, timeline: Timeline) -> None:
        """A request has ended. Others than cold starts are passed over."""
        answer = cold_answer(timeline)
        if answer is None:
            return
        self._waiting.append(answer)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_later())

    async def idle(self) -> None:
        """Wait until all is told, or given up."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    async def _send_later(self) -> None:
        delay_s = self._delay_s
        try:
            while self._waiting:
                await asyncio.sleep(delay_s)
                batch = list(self._waiting)
                try:
                    await self._tell(batch)
                except PlatformError as error:
                    logger.warning("cold_starts_untold count=%d reason=%s", len(batch), error)
                    delay_s = self._retry_s
                    continue
                except Exception:  # they are there to be looked at: serving goes on without
                    logger.exception("cold_starts_untold")
                delay_s = self._delay_s
                for answer in batch:
                    if self._waiting and self._waiting[0] is answer:  # else it has gone already
                        self._waiting.popleft()
        finally:
            self._sending = None


def cold_answer(timeline: Timeline) -> ColdAnswer | None:
    """What *timeline* says of a cold start; None for any other request.

    The one that waited for the attach: others that came meanwhile have waited less for the same.
    """
    attach = next((span for span in timeline.spans if span.name == "attach"), None)
    if attach is None or not timeline.cold:
        return None
    if timeline.attempts > 1 or any(span.name == "room" for span in timeline.spans):
        return None  # a replica went, or others took the memory: the next cold start is another
    if timeline.ttft_s is None or timeline.revision_id is None:
        return None
    stage = next((span for span in timeline.spans if span.name == "stage"), None)
    # Without a tier, reading went on to the end of the answer: what is in memory is known at once.
    tier = (None if stage is None else stage.tier) or attach.tier or "disk"
    if tier not in tuple(Tier):
        return None  # a GPU's memory is no tier of the policy's yet
    spans: dict[str, float] = {}
    for span in timeline.spans:
        if span.name != "decode":
            spans[span.name] = spans.get(span.name, 0.0) + max(0.0, span.duration_s)
    seconds = max(0.0, timeline.ttft_s)
    return ColdAnswer(timeline.model, timeline.revision_id, Tier(tier), seconds, spans)
