"""The models that are live: put, deleted, configured; memory and store change together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pilotlight_autoscaler import AutoscalingConfig
from pilotlight_platform.errors import DeployError, StoreError
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.floors import Floors
from pilotlight_platform.scheduler.preparing import Preparing
from pilotlight_platform.scheduler.tasks import Tasks
from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.store.redis_store import RedisStore

logger = logging.getLogger("pilotlight.scheduler")

_SETTLE_MIN_S = 0.5
_SETTLE_MAX_S = 30.0


class LiveModels:
    """Lives on the scheduler's event loop; *foretell* adds to a record what its cold starts will
    take, *show* decides again and publishes the table.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: RedisStore,
        preparing: Preparing,
        floors: Floors,
        tasks: Tasks,
        foretell: Callable[[ModelRecord], Awaitable[ModelRecord]],
        show: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._preparing = preparing
        self._floors = floors
        self._tasks = tasks
        self._foretell = foretell
        self._show = show  # the table's version that shows it
        self._unsettled: set[str] = set()  # their row in the store may not be what is live
        self._changing = asyncio.Lock()

    async def put(self, record: ModelRecord) -> int:
        """See ``Scheduler.put_model``."""
        return await self._tasks.unbroken(self._put(record))

    async def _put(self, record: ModelRecord) -> int:
        # In use from here on: who tidies up meanwhile must not take it for a left-over.
        with self._cluster.arriving(record.revision.path):
            async with self._changing:
                self._check_size(record)
                await self._check_floors(record)
                await self._preparing.everywhere(record.revision)
                return await self._publish(record)

    async def _check_floors(self, record: ModelRecord) -> None:
        spec = record.spec
        await self._floors.check_model(spec.name, spec.autoscaling, record.revision.nbytes)

    def _check_size(self, record: ModelRecord) -> None:
        largest = self._cluster.largest_worker_bytes()
        nbytes = record.revision.nbytes
        if largest is not None and nbytes > largest:
            raise DeployError(
                f"the model has {nbytes / 1e9:.1f} GB of weights, the largest worker holds "
                f"{largest / 1e9:.1f} GB (PILOTLIGHT_WORKER_CAPACITY_BYTES)"
            )

        memory = self._cluster.largest_node_bytes()
        context, cache = _full_context(record)
        if memory is not None and nbytes + cache > memory:
            raise DeployError(
                f"the model has {nbytes / 1e9:.1f} GB of weights, and keys and values of one "
                f"request that fills its context of {context} tokens "
                f"take {cache / 1e9:.1f} GB: the largest machine has {memory / 1e9:.1f} GB of "
                "memory; set a lower max_context_tokens in the model file, or quantize it"
            )

    async def _publish(self, record: ModelRecord) -> int:
        name = record.spec.name
        old = self._cluster.models.get(name)
        if old is not None:
            record = record.model_copy(update={"created_at_s": old.record.created_at_s})
        record = await self._foretell(record)
        await self._check_floors(record)  # the pool may have been made smaller meanwhile
        await self._write(name, self._store.put_model(record), record.revision.path)
        self._cluster.deploy(record)
        if old is not None:
            self._preparing.retire(old.record.revision)
        self._preparing.late(record.revision)
        return self._show()

    async def delete(self, name: str) -> int:
        """See ``Scheduler.delete_model``."""
        return await self._tasks.unbroken(self._delete(name))

    async def _delete(self, name: str) -> int:
        async with self._changing:
            model = self._cluster.model(name)
            await self._write(name, self._store.delete_model(name))
            self._cluster.remove(name)
            self._preparing.retire(model.record.revision)
            return self._show()

    async def configure(self, name: str, config: AutoscalingConfig) -> int:
        """See ``Scheduler.configure``."""
        return await self._tasks.unbroken(self._configure(name, config))

    async def _configure(self, name: str, config: AutoscalingConfig) -> int:
        async with self._changing:
            model = self._cluster.model(name)
            await self._floors.check_model(name, config, model.record.revision.nbytes)
            spec = model.record.spec.model_copy(update={"autoscaling": config})
            changed = {"spec": spec, "updated_at_s": now()}
            record = model.record.model_copy(update=changed)
            await self._write(name, self._store.put_model(record), record.revision.path)
            # Anew: meanwhile its cold starts may have been foretold again.
            model.configure(model.record.model_copy(update=changed))
            return self._show()

    async def _write(self, name: str, write: Coroutine[Any, Any, None], path: str = "") -> None:
        """Write to the store. A write that got no answer may still be carried out: undo it."""
        try:
            await write
        except StoreError:
            if name not in self._unsettled:
                self._unsettled.add(name)
                self._tasks.spawn(self._settle(name, path))
            raise

    async def _settle(self, name: str, path: str) -> None:
        """Write what is live under *name* until the store takes it; *path* is kept until then."""
        delay_s = _SETTLE_MIN_S
        with self._cluster.arriving(path):
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _SETTLE_MAX_S)
                async with self._changing:
                    model = self._cluster.models.get(name)
                    try:
                        if model is None:
                            await self._store.delete_model(name)
                        else:
                            await self._store.put_model(model.record)
                    except StoreError as error:
                        logger.warning("unsettled model=%s reason=%s", name, error)
                    else:
                        self._unsettled.discard(name)
                        return


def _full_context(record: ModelRecord) -> tuple[int, int]:
    """Tokens of a request that fills the context, and the bytes of its keys and values.

    In proportion, so too few where windows slide: these are full before the context is.
    """
    context, cache = record.revision.context_length, record.revision.cache_nbytes
    limit = record.spec.max_context_tokens
    if limit is None or context == 0 or limit >= context:
        return context, cache
    return limit, cache * limit // context
