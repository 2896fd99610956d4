"""A deploy before its bake: what cannot become live is not baked."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from pilotlight_autoscaler import AutoscalingConfig
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.errors import (
    FloorsTooHighError,
    OverloadedError,
    PlatformError,
    SourceError,
    WorkerLostError,
)
from pilotlight_platform.gateway.deploys import Deploys
from pilotlight_platform.schemas.model import ModelSpec
from pilotlight_platform.settings import Settings


class Baker:
    """Has begun a bake, or not; it never gets further."""

    begun = False

    async def bake(self, order: BakeOrder) -> AsyncGenerator[None]:
        self.begun = True
        raise SourceError("no checkpoint")
        yield

    async def gone(self) -> None:
        pass


class Scheduler:
    """Answers a check with an error."""

    def __init__(self, error: PlatformError) -> None:
        self.error = error

    async def check_floors(self, name: str, config: AutoscalingConfig) -> None:
        raise self.error

    async def checkpoints_in_use(self) -> set[str]:
        return set()


def deploy(home: Path, error: PlatformError) -> tuple[bool, type[Exception]]:
    """Whether a bake was begun, and how the deploy ended."""
    deploys = Deploys(Settings(home=home), Scheduler(error))
    deploys._baker = baker = Baker()

    async def run() -> None:
        async for _ in deploys.run(ModelSpec(name="a", source="/source")):
            pass

    with pytest.raises(PlatformError) as failed:
        asyncio.run(run())
    return baker.begun, failed.type


def test_deploy_whose_floors_do_not_fit_is_not_baked(tmp_path: Path) -> None:
    assert deploy(tmp_path, FloorsTooHighError("too high")) == (False, FloorsTooHighError)


@pytest.mark.parametrize("error", [WorkerLostError("restarts"), OverloadedError("slow")])
def test_deploy_is_baked_while_the_scheduler_restarts(tmp_path: Path, error: PlatformError) -> None:
    """It is checked again, when it is to go live."""
    assert deploy(tmp_path, error) == (True, SourceError)
