"""Deploying a model: bake in a process of its own, verify there, then make it live."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.process import BakeProcess
from pilotlight_platform.baking.unused import remove_unused
from pilotlight_platform.errors import (
    DeployError,
    OverloadedError,
    PlatformError,
    SourceError,
    WorkerLostError,
)
from pilotlight_platform.scheduler_client import SchedulerClient
from pilotlight_platform.schemas.model import BakeDone, DeployProgress, ModelRecord, ModelSpec
from pilotlight_platform.settings import Settings

logger = logging.getLogger("pilotlight.gateway")

_MAX_DEPLOYS = 8  # waiting ones included; a bake may hold a whole model in memory
_BAKE_TIMEOUT_S = 6 * 3600.0


class Deploys:
    """One deploy at a time: bakes are bound by memory and disk, not by cores."""

    def __init__(self, settings: Settings, scheduler: SchedulerClient) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._baker = BakeProcess()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._tidying: set[asyncio.Task[None]] = set()  # kept: a task needs a reference

    async def run(
        self, spec: ModelSpec
    ) -> AsyncGenerator[DeployProgress | tuple[ModelRecord, bool, int]]:
        """Progress, then the live record, whether its checkpoint was reused, the table's version.

        Raises DeployError, FloorsTooHighError, StoreError, OverloadedError; what was live before
        still is then.
        """
        if self._waiting >= _MAX_DEPLOYS:
            raise OverloadedError(f"{_MAX_DEPLOYS} deploys wait already.", retry_after_s=30.0)
        self._waiting += 1
        try:
            async with self._turn:
                try:
                    async with aclosing(self._bake_and_publish(spec)) as steps:
                        async for step in steps:
                            yield step
                except (asyncio.CancelledError, GeneratorExit):
                    # The client has gone, and its server cancels every wait in here: tidy up
                    # in a task of its own, which takes the next turn.
                    self.collect_soon()
                    raise
                except PlatformError:
                    await self._remove_unused()
                    raise
                await self._remove_unused()
        finally:
            self._waiting -= 1

    def collect_soon(self) -> None:
        """collect() in the background: a deploy that is under way may have hours to go."""
        self._tidying.add(task := asyncio.create_task(self.collect()))
        task.add_done_callback(self._tidying.discard)

    async def collect(self) -> None:
        """Remove the checkpoints that no model uses; waits for deploys that may reuse one."""
        async with self._turn:
            await self._remove_unused()

    def close(self) -> None:
        """End the process that waits for the next deploy."""
        self._baker.close()

    async def _remove_unused(self) -> None:
        try:
            await self._baker.gone()
            used = await self._scheduler.checkpoints_in_use()
        except (PlatformError, TimeoutError) as error:
            # They go after the next deploy, or at the next start.
            logger.warning("collect_skipped reason=%s", error)
            return
        await asyncio.to_thread(remove_unused, self._settings.checkpoints_dir, used)

    async def _bake_and_publish(
        self, spec: ModelSpec
    ) -> AsyncGenerator[DeployProgress | tuple[ModelRecord, bool, int]]:
        if "://" not in spec.source and not Path(spec.source).is_absolute():
            raise SourceError(
                f"source {spec.source!r} must be an absolute path of the platform's machine, or an "
                "address (s3://, https://, hf://)"
            )
        await self._check_floors(spec)
        async with aclosing(self._bake(spec)) as steps:
            async for step in steps:
                if isinstance(step, DeployProgress):
                    yield step
                    continue
                yield DeployProgress(phase="prepare", message="preparing it on every worker")
                at_s = time.time()
                record = ModelRecord(
                    spec=spec, revision=step.revision, created_at_s=at_s, updated_at_s=at_s
                )
                yield record, step.reused, await self._scheduler.put_model(record)

    async def _check_floors(self, spec: ModelSpec) -> None:
        """Before a bake, which may take hours: it is checked again when the model goes live.

        Raises FloorsTooHighError.
        """
        try:
            await self._scheduler.check_floors(spec.name, spec.autoscaling)
        except (WorkerLostError, OverloadedError) as error:  # it restarts, and is back by then
            logger.warning("floors_unchecked model=%s reason=%s", spec.name, error)

    async def _bake(self, spec: ModelSpec) -> AsyncGenerator[DeployProgress | BakeDone]:
        try:
            async with asyncio.timeout(_BAKE_TIMEOUT_S):
                async with aclosing(self._baker.bake(self._order(spec))) as steps:
                    async for step in steps:
                        yield step
        except TimeoutError as error:
            raise DeployError(f"baking took longer than {_BAKE_TIMEOUT_S / 3600:g} h") from error

    def _order(self, spec: ModelSpec) -> BakeOrder:
        settings = self._settings
        return BakeOrder(
            spec=spec,
            checkpoints_dir=settings.checkpoints_dir,
            cache_dir=settings.cache_dir,
            cache_bytes=settings.cache_bytes,
        )
