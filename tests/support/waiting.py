"""Waiting for a state of the platform, with a bound; and for the event loop's next turn."""

import asyncio
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Poll *condition*; fails the test when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s:g} s"
        time.sleep(0.05)


async def until_true(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """As until(), while the event loop goes on."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # the conditions are plain values
            await asyncio.sleep(0.005)


async def next_turn(turns: int = 1) -> None:
    """Let every task that can run do so, up to where it waits."""
    for _ in range(turns):
        await asyncio.sleep(0)
