"""The revisions in a worker: attached and detached on the scheduler's orders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.host_tier import HostTier
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.errors import AttachError, EvictionRefusedError, ReplicaGoneError
from pilotlight_platform.schemas.cluster import AttachOrder, ReplicaReport
from pilotlight_platform.worker.overtakers import Overtakers
from pilotlight_platform.worker.resident import Resident
from pilotlight_platform.worker.skeletons import Skeletons

logger = logging.getLogger("pilotlight.worker")

_STAGE_TIMEOUT_S = 600.0


class Residents:
    """By revision. Lives on one event loop; *changed* is called whenever a report would differ."""

    def __init__(
        self,
        engine: Engine,
        skeletons: Skeletons,
        overtakers: Overtakers,
        host_tier: HostTier | None,
        floors: Mapping[str, float],
        changed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._skeletons = skeletons
        self._overtakers = overtakers
        self._host_tier = host_tier
        self._floors = floors
        self._changed = changed
        self._all: dict[str, Resident] = {}
        self._staging: set[asyncio.Task[None]] = set()  # kept: a task needs a reference

    def __contains__(self, revision_id: str) -> bool:
        return revision_id in self._all

    def reports(self) -> tuple[ReplicaReport, ...]:
        return tuple(each.report() for each in self._all.values())

    async def attach(self, order: AttachOrder) -> None:
        """Carry out *order*; returns when the replica is ready. Idempotent.

        Raises EvictionRefusedError if a victim is busy, AttachError if it cannot be mapped.
        """
        resident = self._all.get(order.revision_id)
        if resident is not None and resident.phase == "draining":
            await resident.gone.wait()
            resident = self._all.get(order.revision_id)
        if resident is None:
            victims = [self._all[each] for each in order.evict if each in self._all]
            busy = [each.order.revision_id for each in victims if each.busy]
            if busy:
                await self._overtakers.order_refused(order.revision_id)
                raise EvictionRefusedError(f"cannot evict {', '.join(busy)}: requests are running")
            for victim in victims:
                victim.phase = "draining"
            resident = Resident(order)
            self._all[order.revision_id] = resident
            # A task of its own: a caller that goes away must not leave it half attached.
            resident.lighting = asyncio.create_task(self._light(resident, victims))
            await self._overtakers.order_taken(order.revision_id)
        await resident.done.wait()
        if resident.error is not None:
            raise resident.error

    async def detach(self, revision_id: str) -> None:
        """Detach an idle revision; nothing is done if it is attaching or has requests."""
        resident = self._all.get(revision_id)
        if resident is not None and resident.phase == "draining":
            await resident.gone.wait()
        elif resident is not None and not resident.busy:
            resident.phase = "draining"
            await self._extinguish(resident)

    async def find(self, revision_id: str, *, expected: bool) -> Resident:
        """The resident for a request. *expected*: an attach order is on its way, wait for it.

        Raises ReplicaGoneError if the revision is not attached here.
        """
        if expected:
            await self._overtakers.wait(revision_id, lambda: self._stays(revision_id))
        if not self._stays(revision_id):
            raise ReplicaGoneError(f"revision {revision_id} is not attached here")
        return self._all[revision_id]

    def _stays(self, revision_id: str) -> bool:
        resident = self._all.get(revision_id)
        return resident is not None and resident.phase != "draining"

    async def _light(self, resident: Resident, victims: list[Resident]) -> None:
        order = resident.order
        self._changed()
        try:
            for victim in victims:
                await self._extinguish(victim)
            skeleton = await self._skeletons.built(order.revision_id, order.path)
            # On the loop, not in a thread: it takes about 3 ms and a thread hop costs as much.
            resident.replica = Replica.attach(
                skeleton, host_tier=self._host_tier, floors=self._floors
            )
            resident.phase = "ready"
            resident.since_s = resident.idle_since_s = time.time()
            if resident.replica.staged is None:
                self._staging.add(task := asyncio.create_task(self._report_staged(resident)))
                task.add_done_callback(self._staging.discard)
        except Exception as error:  # whatever it is, it ends this attach and nothing else
            logger.exception("attach_failed model=%s", order.model)
            resident.error = AttachError(f"model {order.model!r} cannot be attached: {error}")
            self._leave(resident)
        finally:
            resident.done.set()
            self._changed()

    async def _report_staged(self, resident: Resident) -> None:
        """Tell when the last page has come from the disk: that is when a cold start has ended."""
        assert resident.replica is not None
        await asyncio.to_thread(resident.replica.wait_staged, _STAGE_TIMEOUT_S)
        self._changed()

    async def _extinguish(self, resident: Resident) -> None:
        """Give a draining resident's weights back; it counts as here until they are."""
        self._changed()
        try:
            if resident.replica is not None:
                self._engine.drop(resident.replica)
                # Waits for a forward pass that may be running for a client that has gone.
                await asyncio.to_thread(resident.replica.detach)
        finally:
            self._leave(resident)
            self._changed()

    def _leave(self, resident: Resident) -> None:
        revision_id = resident.order.revision_id
        self._all.pop(revision_id, None)
        resident.gone.set()
        self._skeletons.detached(revision_id)
