"""The newest value reaches every reader, on whatever thread it was written."""

import asyncio
import threading

from pilotlight_platform.latest import Latest


def test_latest_wakes_a_reader_of_another_threads_loop() -> None:
    latest = Latest(0)
    waiting, got = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def write() -> None:
        assert waiting.wait(10)
        latest.set(1)
        in_time.append(got.wait(5))

    async def read() -> None:
        async with asyncio.timeout(20):  # the only other thing that would wake the loop
            async for value in latest.values():
                if value == 1:
                    return got.set()
                asyncio.get_running_loop().call_soon(waiting.set)

    writer = threading.Thread(target=write)
    writer.start()
    asyncio.run(read())
    writer.join()

    assert in_time == [True]


def test_latest_gives_a_slow_reader_the_newest_only() -> None:
    async def read() -> list[int]:
        latest = Latest(0)
        values = latest.values()
        seen = [await anext(values)]
        for value in (1, 2, 3):
            latest.set(value)
        seen.append(await anext(values))
        return seen

    assert asyncio.run(read()) == [0, 3]


def test_latest_gives_each_reader_every_value_it_waits_for() -> None:
    async def read() -> list[list[int]]:
        latest = Latest(0)
        readers = [latest.values() for _ in range(2)]
        seen = [[await anext(each)] for each in readers]
        for value in (1, 2):
            latest.set(value)
            for mine, each in zip(seen, readers, strict=True):
                mine.append(await anext(each))
        return seen

    assert asyncio.run(read()) == [[0, 1, 2], [0, 1, 2]]


def test_latest_forgets_a_reader_that_has_gone() -> None:
    latest = Latest(0)

    async def read() -> None:
        values = latest.values()
        await anext(values)
        await values.aclose()  # type: ignore[attr-defined]

    asyncio.run(read())
    latest.set(1)  # its loop is closed

    assert latest.value == 1
    assert not latest._readers
