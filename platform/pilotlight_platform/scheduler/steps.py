"""Observe, decide, apply, publish: one step of the scheduler, and when the next one is due."""

from __future__ import annotations

import asyncio
import logging

from pilotlight_autoscaler import Attach, Decision
from pilotlight_platform.scheduler.cluster import Cluster, now
from pilotlight_platform.scheduler.decision_log import DecisionLog
from pilotlight_platform.scheduler.memory import Memory
from pilotlight_platform.scheduler.orders import Orders
from pilotlight_platform.scheduler.pool_keeping import PoolKeeping
from pilotlight_platform.scheduler.table import Table
from pilotlight_platform.scheduler.told import Told

logger = logging.getLogger("pilotlight.scheduler")

_FAILED_STEP_S = 1.0


class Steps:
    """Taken at events, and when the policy wants to look again. Lives on one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        told: Told,
        pool_keeping: PoolKeeping,
        orders: Orders,
        table: Table,
        log: DecisionLog,
        memory: Memory,
    ) -> None:
        self._cluster = cluster
        self._told = told
        self._pool_keeping = pool_keeping
        self._orders = orders
        self._table = table
        self._log = log
        self._memory = memory
        self._lessons = 0  # that the memory was told of
        self._wake: asyncio.TimerHandle | None = None

    def take(self, *, routes_changed: bool = False) -> None:
        """A boundary: what one model's values break must not end the others' service."""
        try:
            self._decide_and_apply(routes_changed=routes_changed)
        except Exception:
            logger.exception("step_failed")
            self._look_again(now() + _FAILED_STEP_S)

    def _decide_and_apply(self, *, routes_changed: bool) -> None:
        routes_changed |= self._pool_keeping.update()
        decision = self._told.decide(self._cluster, now())
        if decision.pool is not None:
            self._pool_keeping.decided(decision.pool)
        self._cluster.unplaced = {unplaced.model: unplaced for unplaced in decision.unplaced}
        self._log.note(decision, now(), self._evicted(decision))
        again_s = None
        try:
            self._orders.give(decision)
        except Exception:  # the table below must not go on naming workers that have gone
            logger.exception("orders_failed")
            again_s = now() + _FAILED_STEP_S
        if self._told.lessons != self._lessons or decision.pool is not None:
            self._lessons = self._told.lessons
            self._memory.changed()
        wakes = (decision.wake_at_s, self._cluster.demand_expires_s(), again_s)
        self._look_again(min((at_s for at_s in wakes if at_s is not None), default=None))
        # A replica that goes must not get requests any more: who is sent there comes back.
        self._table.update(at_once=routes_changed or bool(decision.detach or decision.drain))

    def _evicted(self, decision: Decision) -> list[tuple[Attach, str]]:
        """Who makes room for each attach, by model."""
        return [
            (attach, replica.model)
            for attach in decision.attach
            if attach.evict
            for replica in self._cluster.workers[attach.worker_id].replicas()
            if replica.revision_id in attach.evict
        ]

    def _look_again(self, wake_at_s: float | None) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if wake_at_s is not None:
            # At least 1 ms ahead: the wall clock may lag a little behind the loop's.
            delay_s = max(0.001, wake_at_s - now())
            self._wake = asyncio.get_running_loop().call_later(delay_s, self.take)
