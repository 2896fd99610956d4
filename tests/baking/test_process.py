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

from pilotlight_platform.baking.process import BakeProcess
from pilotlight_platform.errors import DeployError, SourceError
from pilotlight_platform.schemas.model import BakeDone, DeployProgress, ModelSpec

Steps = AsyncGenerator[DeployProgress | BakeDone]


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="m", source=str(source))


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "baking" in str(child.cmdline())]


async def until_loading(steps: Steps) -> None:
    async for step in steps:
        if isinstance(step, DeployProgress) and step.phase == "load":
            return


def test_process_bakes_and_reports(sample: Path, tmp_path: Path) -> None:
    async def run() -> list[DeployProgress | BakeDone]:
        return [step async for step in BakeProcess(tmp_path).bake(spec(sample))]

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
        async for _ in BakeProcess(tmp_path).bake(spec(tmp_path / "none")):
            pass

    with pytest.raises(SourceError, match="no such directory"):
        asyncio.run(run())


def test_process_that_is_killed_is_a_deploy_error(sample: Path, tmp_path: Path) -> None:
    async def run() -> None:
        baker = BakeProcess(tmp_path)
        async with aclosing(baker.bake(spec(sample))) as steps:
            await until_loading(steps)
            children()[0].kill()
            async for _ in steps:
                pass

    with pytest.raises(DeployError, match="died"):
        asyncio.run(run())


def test_process_is_killed_when_nobody_listens(sample: Path, tmp_path: Path) -> None:
    async def run() -> None:
        baker = BakeProcess(tmp_path)
        async with aclosing(baker.bake(spec(sample))) as steps:
            await until_loading(steps)
        await baker.gone()

    asyncio.run(run())

    assert children() == []


_BAKES_AND_KILLS_ITSELF = """
import asyncio, os, signal, sys
from pathlib import Path
from pilotlight_platform.baking.process import BakeProcess
from pilotlight_platform.schemas.model import ModelSpec

async def run():
    async for _ in BakeProcess(Path(sys.argv[2])).bake(ModelSpec(name="m", source=sys.argv[1])):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(run())
"""


def test_process_dies_with_its_parent(sample: Path, tmp_path: Path) -> None:
    arguments = (str(sample), str(tmp_path))
    parent = subprocess.run([sys.executable, "-c", _BAKES_AND_KILLS_ITSELF, *arguments])

    assert parent.returncode == -signal.SIGKILL
    until(lambda: not any(str(tmp_path) in command for command in commands()))


def commands() -> list[str]:
    return [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
