"""What the policy has learned, kept in the store: saved some seconds after it has changed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

from pilotlight_autoscaler import PolicyState, StateError
from pilotlight_platform.errors import StoreError

logger = logging.getLogger("pilotlight.scheduler")

SAVE_AFTER_S = 5.0  # at most this much is lost with a killed scheduler
# Writing down 1,000 models takes the event loop about 30 ms: not more than a hundredth of it.
_REST_FACTOR = 100.0
_MACHINE = "machine"
_AHEAD_S = 60.0  # clocks of machines differ by seconds, not by more

Write = Callable[[bytes], Awaitable[None]]


def read_state(saved: bytes | None, now_s: float, machine: str = "") -> PolicyState | None:
    """The state in *saved*; None, and a line in the log, if it cannot be used.

    What is of an unknown version, or from a future that is not, is learned again, and so are the
    fields that are damaged, and the seconds that another *machine* took.
    """
    if saved is None:
        return None
    try:
        values = json.loads(saved)
        measured_on = values.pop(_MACHINE, "") if isinstance(values, dict) else ""
        state, lost = PolicyState.salvaged(values)
    except (StateError, ValueError, RecursionError) as error:
        logger.error("learned_refused reason=%s", error)
        return None
    if state.decided_s > now_s + _AHEAD_S:
        ahead_s = state.decided_s - now_s
        logger.error("learned_refused reason=it is %.0f s ahead of this machine's clock", ahead_s)
        return None
    if lost:
        logger.error("learned_partly lost=%d first=%s", len(lost), lost[0])
    if values.get("version", state.version) != state.version:
        logger.warning(
            "learned_upgraded version=%s idle gaps are known half as exactly", values["version"]
        )
    if machine and measured_on and measured_on != machine:
        logger.warning(
            "learned_partly machine=%r before=%r times of starts and requests are measured again",
            machine,
            measured_on,
        )
        return state.without_times()
    return state


class Memory:
    """Saves the state; ``changed`` may be called at every event. Lives on one event loop."""

    def __init__(
        self,
        state: Callable[[], PolicyState],
        write: Write,
        after_s: float = SAVE_AFTER_S,
        machine: str = "",
    ) -> None:
        self._state = state
        self._machine = machine  # that the times are of
        self._write = write
        self._after_s = after_s
        self._rest_s = after_s
        self._saving: asyncio.Task[None] | None = None
        self._dirty = False
        self._turn = asyncio.Lock()

    def changed(self) -> None:
        """Something was learned: save it soon."""
        self._dirty = True
        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save_later())

    async def save(self) -> None:
        """Save now what is not saved yet. Raises StoreError."""
        async with self._turn:  # an older state must not be written over a newer one
            if not self._dirty:
                return
            self._dirty = False
            began_s = time.perf_counter()
            try:
                values = self._state().to_json()
                if self._machine:
                    values[_MACHINE] = self._machine
                await self._write(json.dumps(values).encode())
            except BaseException:
                self._dirty = True
                raise
            finally:
                took_s = time.perf_counter() - began_s
                self._rest_s = max(self._after_s, _REST_FACTOR * took_s)

    async def _save_later(self) -> None:
        try:
            while self._dirty:
                await asyncio.sleep(self._rest_s)
                try:
                    await self.save()
                except StoreError as error:
                    logger.warning("learned_unsaved reason=%s", error)
                except Exception:  # what is learned is a help: serving goes on without
                    logger.exception("learned_unsaved")
        finally:
            self._saving = None
