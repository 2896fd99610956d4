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
_KILLED_TIMEOUT_S = 10.0
_EVENT: TypeAdapter[BakeEvent] = TypeAdapter(BakeEvent)
_ERRORS = {error.code: error for error in (DeployError, SourceError, VerificationError)}


class BakeProcess:
    """Bakes revisions, one at a time. The process dies with its parent, whatever ends that one."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def bake(self, order: BakeOrder) -> AsyncGenerator[DeployProgress | BakeDone]:
        """Progress, then the result; closing the generator kills the process.

        Raises DeployError, SourceError, VerificationError.
        """
        process = self._process = await self._start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(order.model_dump_json().encode())
            process.stdin.close()
            last: BakeEvent | None = None
            async for line in process.stdout:
                last = _EVENT.validate_json(line)
                if not isinstance(last, DeployFailed):
                    yield last
            code = await process.wait()
        except (OSError, ValueError) as error:  # ValueError: no event, or a line without end
            raise DeployError(f"the baking process failed: {error}") from error
        finally:
            if process.returncode is None:
                process.kill()
        if isinstance(last, DeployFailed):
            raise _ERRORS.get(last.code, DeployError)(last.message)
        if not isinstance(last, BakeDone):
            raise DeployError(f"the baking process died ({code}): its traceback is in Serve's log")

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
        """Wait until the last process has ended: only then does it write no more."""
        if self._process is not None:
            async with asyncio.timeout(_KILLED_TIMEOUT_S):
                await self._process.wait()
