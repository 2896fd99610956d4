"""Requests ahead of their attach order: how long they wait, and for what."""

from __future__ import annotations

import asyncio
import time

from support.waiting import next_turn

from pilotlight_platform.worker.overtakers import Overtakers

_LONG_S = 60.0


def waited_s(overtakers: Overtakers, *revisions: str) -> list[float]:
    """What a request for each of *revisions* waits, if its order never comes."""

    async def wait(revision: str) -> float:
        began_s = time.monotonic()
        await overtakers.wait(revision, lambda: False)
        return time.monotonic() - began_s

    async def run() -> list[float]:
        return [await wait(revision) for revision in revisions]

    return asyncio.run(run())


def test_overtaker_waits_for_its_order() -> None:
    here: set[str] = set()

    async def run() -> bool:
        overtakers = Overtakers(_LONG_S)
        waiting = asyncio.create_task(overtakers.wait("a", lambda: "a" in here))
        await next_turn()
        here.add("b")
        await overtakers.order_taken("b")
        early = waiting.done()
        here.add("a")
        await overtakers.order_taken("a")
        await asyncio.wait_for(waiting, 10)
        return early

    assert not asyncio.run(run())


def test_overtaker_of_a_refused_order_is_let_go_at_once() -> None:
    async def run() -> None:
        overtakers = Overtakers(_LONG_S)
        waiting = asyncio.create_task(overtakers.wait("a", lambda: False))
        await next_turn()
        await overtakers.order_refused("a")
        await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(overtakers.wait("a", lambda: False), 10)  # who comes just after

    asyncio.run(run())


def test_overtaker_waits_again_once_an_order_was_taken() -> None:
    async def run() -> bool:
        overtakers = Overtakers(_LONG_S)
        await overtakers.order_refused("a")
        await overtakers.order_taken("a")
        waiting = asyncio.create_task(overtakers.wait("a", lambda: False))
        await next_turn()
        done = waiting.done()
        waiting.cancel()
        return done

    assert not asyncio.run(run())


def test_overtaker_waits_no_longer_than_its_grace() -> None:
    assert all(waited >= 0.05 for waited in waited_s(Overtakers(0.05), "a", "b"))
