"""The threads on which long prompts are encoded, each within a bound."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pilotlight_platform.engine.openmp import compute_alone
from pilotlight_platform.engine.prompt import encode_prompt
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import InvalidRequestError
from pilotlight_platform.schemas.generation import GenerationRequest

_TIMEOUT_S = 30.0
_THREADS = 2
_LANDING_S = 1.0  # an exception sent to a thread arrives within a switch interval (0.5 ms)


class _InterruptedError(BaseException):
    """Raised in a thread from outside. No Exception: a template cannot catch it."""


class Encoders:
    """Encodes prompts off the compute thread; what takes too long is ended, not left to run.

    A chat template is a program. Left alone, one that does not end would hold its thread for ever,
    and a second one would stop the chats of every model of the worker.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, "pilotlight-encode", initializer=compute_alone)

    async def encode(self, skeleton: Skeleton, request: GenerationRequest) -> list[int]:
        """Token ids of the prompt. Raises InvalidRequestError, also for one that takes too long."""
        job = _Job(lambda: encode_prompt(skeleton, request))
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, job.run)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await running
        except TimeoutError as error:
            raise InvalidRequestError(
                f"the prompt was not encoded within {self._timeout_s:g} s: shorten it"
            ) from error
        finally:
            job.interrupt()  # also where the client has gone

    def close(self) -> None:
        """End the threads, once they have done what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Job:
    """A call that another thread can end: Python code only, a native function runs to its end."""

    def __init__(self, function: Callable[[], list[int]]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None  # while the function runs
        self._interrupted = False

    def run(self) -> list[int]:
        """The function's value. Raises TimeoutError if it was interrupted."""
        with self._lock:
            if self._interrupted:
                raise TimeoutError
            self._thread = threading.get_ident()
        landed = False
        try:
            return self._function()
        except _InterruptedError:
            landed = True
            raise TimeoutError from None
        finally:
            with self._lock:
                self._thread = None
            if self._interrupted and not landed:
                _let_it_land()

    def interrupt(self) -> None:
        """End the function where it stands; nothing if it has ended, or never begun then."""
        with self._lock:
            self._interrupted = True
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_InterruptedError)
                )


def _let_it_land() -> None:
    """Take the exception that is on its way to this thread: in the executor it would end it."""
    deadline = time.monotonic() + _LANDING_S
    try:
        while time.monotonic() < deadline:
            time.sleep(0.0001)
    except _InterruptedError:
        pass
