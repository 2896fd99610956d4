"""A bake as the gateway runs it: in a process of its own, which gives its memory back."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator

from pydantic import TypeAdapter

from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.errors import DeployError, SourceError, VerificationError
from pilotlight_platform.schemas.model import (
    BakeDone,
    BakeEvent,
    DeployFailed,
    DeployProgress,
)

_MAX_LINE_BYTES = 1 << 20  # of one event; a message quotes at most a few names
_ENDED_TIMEOUT_S = 10.0
# A deploy of what is baked already takes 0.2 s, and 2.8 s more to import torch and transformers.
# An idle process holds 0.3 GB, so not for long.
_LINGER_S = 30.0
_EVENT: TypeAdapter[BakeEvent] = TypeAdapter(BakeEvent)
_ERRORS = {error.code: error for error in (DeployError, SourceError, VerificationError)}


class BakeProcess:
    """Bakes revisions, one at a time. The process dies with its parent, whatever ends that one.

    One that has baked ends, and gives its memory back. One that found its revision published
    waits *linger_s* for the next order.
    """

    def __init__(self, linger_s: float = _LINGER_S) -> None:
        self._linger_s = linger_s
        self._process: Process | None = None
        self._lingering: asyncio.TimerHandle | None = None  # while the process waits for an order

    async def bake(self, order: BakeOrder) -> AsyncGenerator[DeployProgress | BakeDone]:
        """Progress, then the result; closing the generator before that kills the process.

        Raises DeployError, SourceError, VerificationError.
        """
        last: BakeEvent | None = None
        try:
            process, line = await self._begin(order)
            while line:
                last = _EVENT.validate_json(line)
                if isinstance(last, BakeDone):
                    break
                if not isinstance(last, DeployFailed):
                    yield last
                line = await _read(process)
            if isinstance(last, BakeDone) and last.reused:
                self._keep()
            else:
                code = await process.wait()
        except (OSError, ValueError) as error:  # ValueError: no event, or a line without end
            raise DeployError(f"the baking process failed: {error}") from error
        finally:
            if self._lingering is None:
                self._kill()
        if isinstance(last, DeployFailed):
            raise _ERRORS.get(last.code, DeployError)(last.message)
        if not isinstance(last, BakeDone):
            raise DeployError(f"the baking process died ({code}): its traceback is in Serve's log")
        yield last

    async def _begin(self, order: BakeOrder) -> tuple[Process, bytes]:
        """A process that has *order*, and its first line; none if it died before."""
        waiting = self._taken()
        if waiting is not None and (line := await _ordered(waiting, order)):
            return waiting, line
        process = self._process = await self._start()  # also for one that died while it waited
        return process, await _ordered(process, order)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _keep(self) -> None:
        self._lingering = asyncio.get_running_loop().call_later(self._linger_s, self._let_go)

    def _let_go(self) -> None:
        """End a process that waits for an order; nothing is done to one that bakes."""
        if self._lingering is None:
            return
        self._lingering.cancel()
        self._lingering = None
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _taken(self) -> Process | None:
        """The process that waits for an order, if there is one."""
        if self._lingering is None:
            return None
        self._lingering.cancel()
        self._lingering = None
        return self._process

    async def _start(self) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pilotlight_platform.baking", str(os.getpid())),
                stdin=PIPE,
                stdout=PIPE,
                limit=_MAX_LINE_BYTES,
            )
        except OSError as error:
            raise DeployError(f"no baking process could be started: {error.strerror}") from error

    async def gone(self) -> None:
        """Wait until the last bake has ended: only then does its process write no more."""
        if self._process is not None and self._lingering is None:
            async with asyncio.timeout(_ENDED_TIMEOUT_S):
                await self._process.wait()

    def close(self) -> None:
        """End a process that waits for an order."""
        self._let_go()


async def _ordered(process: Process, order: BakeOrder) -> bytes:
    assert process.stdin is not None
    process.stdin.write(order.model_dump_json().encode() + b"\n")
    return await _read(process)


async def _read(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()
