"""Baking in a process of its own: its events, its errors, and its end."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from support.waiting import until

from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.process import BakeProcess
from pilotlight_platform.errors import DeployError, SourceError
from pilotlight_platform.schemas.model import BakeDone, DeployProgress, ModelSpec

Steps = AsyncGenerator[DeployProgress | BakeDone]


def order(source: Path, directory: Path) -> BakeOrder:
    spec = ModelSpec(name="m", source=str(source))
    return BakeOrder(spec=spec, checkpoints_dir=directory, cache_dir=directory.parent / "cache")


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "pilotlight_platform.baking" in str(child.cmdline())
    ]


async def until_loading(steps: Steps) -> None:
    async for step in steps:
        if isinstance(step, DeployProgress) and step.phase == "load":
            return


def test_process_bakes_and_reports(sample: Path, tmp_path: Path) -> None:
    async def run() -> list[DeployProgress | BakeDone]:
        return [step async for step in BakeProcess().bake(order(sample, tmp_path))]

    *progress, done = asyncio.run(run())

    assert isinstance(done, BakeDone)
    assert Path(done.revision.path).parent == tmp_path
    assert {step.phase for step in progress if isinstance(step, DeployProgress)} == {
        "check",
        "load",
        "bake",
        "verify",
    }


def test_process_error_is_raised_as_its_own_kind(tmp_path: Path) -> None:
    async def run() -> None:
        async for _ in BakeProcess().bake(order(tmp_path / "none", tmp_path)):
            pass

    with pytest.raises(SourceError, match="no such directory"):
        asyncio.run(run())


def test_process_that_is_killed_is_a_deploy_error(sample: Path, tmp_path: Path) -> None:
    async def run() -> None:
        baker = BakeProcess()
        async with aclosing(baker.bake(order(sample, tmp_path))) as steps:
            await until_loading(steps)
            children()[0].kill()
            async for _ in steps:
                pass

    with pytest.raises(DeployError, match="died"):
        asyncio.run(run())


def test_process_is_killed_when_nobody_listens(sample: Path, tmp_path: Path) -> None:
    async def run() -> None:
        baker = BakeProcess()
        async with aclosing(baker.bake(order(sample, tmp_path))) as steps:
            await until_loading(steps)
        await baker.gone()

    asyncio.run(run())

    assert children() == []


async def bake(baker: BakeProcess, order: BakeOrder) -> BakeDone:
    *_, done = [step async for step in baker.bake(order)]
    assert isinstance(done, BakeDone)
    return done


def test_process_that_has_baked_ends(sample: Path, tmp_path: Path) -> None:
    async def run() -> bool:
        done = await bake(BakeProcess(), order(sample, tmp_path))
        assert children() == []  # BakeProcess has waited for its end
        return done.reused

    assert not asyncio.run(run())


def test_process_that_found_its_revision_takes_the_next_order(sample: Path, tmp_path: Path) -> None:
    async def run() -> tuple[list[int], list[bool]]:
        baker = BakeProcess()
        await bake(baker, order(sample, tmp_path))
        first = await bake(baker, order(sample, tmp_path))
        pids = [child.pid for child in children()]
        second = await bake(baker, order(sample, tmp_path))
        pids += [child.pid for child in children()]
        baker.close()
        await baker.gone()
        return pids, [first.reused, second.reused]

    pids, reused = asyncio.run(run())

    assert reused == [True, True]
    assert len(pids) == 2
    assert pids[0] == pids[1]


def test_process_waits_for_the_next_order_only_so_long(sample: Path, tmp_path: Path) -> None:
    async def run() -> None:
        baker = BakeProcess(linger_s=0.1)
        await bake(baker, order(sample, tmp_path))
        await bake(baker, order(sample, tmp_path))
        await asyncio.to_thread(until, lambda: children() == [])
        await baker.gone()

    asyncio.run(run())


def test_process_that_died_while_it_waited_is_replaced(sample: Path, tmp_path: Path) -> None:
    async def run() -> bool:
        baker = BakeProcess()
        await bake(baker, order(sample, tmp_path))
        await bake(baker, order(sample, tmp_path))
        children()[0].kill()
        done = await bake(baker, order(sample, tmp_path))
        baker.close()
        await baker.gone()
        return done.reused

    assert asyncio.run(run())


_BAKES_AND_KILLS_ITSELF = """
import asyncio, os, signal, sys
from pathlib import Path
from pilotlight_platform.baking.process import BakeProcess
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.schemas.model import ModelSpec

async def run():
    spec = ModelSpec(name="m", source=sys.argv[1])
    directory = Path(sys.argv[2])
    order = BakeOrder(spec=spec, checkpoints_dir=directory, cache_dir=directory / "cache")
    async for _ in BakeProcess().bake(order):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(run())
"""


def test_process_dies_with_its_parent(sample: Path, tmp_path: Path) -> None:
    arguments = (str(sample), str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", _BAKES_AND_KILLS_ITSELF, *arguments]) as parent:
        parent.wait()

    assert parent.returncode == -signal.SIGKILL
    until(lambda: not any(str(parent.pid) in command for command in commands()))


def commands() -> list[list[str]]:
    return [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
