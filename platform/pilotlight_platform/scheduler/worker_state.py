"""A registered worker: what it reports, and what it was ordered to do since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from pilotlight_autoscaler import Phase, ReplicaSnapshot, Tier
from pilotlight_autoscaler import WorkerSnapshot as WorkerView
from pilotlight_platform.schemas.cluster import (
    AttachOrder,
    ReplicaReport,
    WorkerInfo,
    WorkerReport,
)


class WorkerState:
    """Its last report, and the orders that it has not reported yet. Says when it has changed."""

    __slots__ = (
        "_busy",
        "_draining",
        "_leaving",
        "_observed",
        "_orders",
        "_replicas",
        "_served",
        "_starting",
        "_touched",
        "info",
        "report",
    )

    def __init__(self, info: WorkerInfo, touched: Callable[[str], None]) -> None:
        self.info = info
        self.report = WorkerReport()
        self._touched = touched
        self._observed = asyncio.Event()  # set and replaced at each report
        self._orders: dict[str, tuple[AttachOrder, float]] = {}  # by revision
        self._starting: dict[str, float] = {}  # by revision: not measured yet
        # By revision: requests that were accounted for, and their seconds.
        self._served: dict[str, tuple[int, float]] = {}
        self._leaving: set[str] = set()  # revisions with a detach under way
        self._draining: set[str] = set()  # to be detached when their streams have ended
        self._replicas: tuple[ReplicaReport, ...] | None = None  # None: to be worked out again
        self._busy: bool | None = None

    def observe(self, report: WorkerReport) -> None:
        """Take over *report* unless a later one is known: they travel in several ways."""
        if report.number <= self.report.number:
            return
        if not self.report.number:  # an earlier scheduler has learned from these
            self._served = {r.revision_id: (r.served, r.served_s) for r in report.replicas}
        changed = report.replicas != self.report.replicas
        self.report = report
        self._observed.set()
        self._observed = asyncio.Event()
        if changed:
            self._touch()

    async def shown_busy(self, revision_ids: Collection[str]) -> None:
        """Returns if one of them is shown to be busy, else with the next report."""
        if not any(
            r.revision_id in revision_ids and (r.ongoing or r.phase == "attaching")
            for r in self.report.replicas
        ):
            await self._observed.wait()

    def order(self, order: AttachOrder, at_s: float) -> None:
        """An attach order is on its way."""
        self._orders[order.revision_id] = (order, at_s)
        self._touch()

    def ordered(self, revision_id: str, began_s: float | None) -> None:
        """The order has been answered; *began_s* is when a start began that came of it."""
        if began_s is not None:
            self._starting[revision_id] = began_s
        self._orders.pop(revision_id, None)
        self._touch()

    def leave(self, revision_id: str) -> None:
        """A detach is on its way."""
        self._leaving.add(revision_id)
        self._draining.discard(revision_id)
        self._touch()

    def left(self, revision_id: str) -> None:
        """The detach has been answered."""
        self._leaving.discard(revision_id)
        self._touch()

    def drain(self, revision_id: str) -> None:
        """It is to be detached as soon as its streams have ended."""
        self._draining.add(revision_id)
        self._touch()

    def replicas(self) -> tuple[ReplicaReport, ...]:
        """What is here, on its way, or about to go: those count as draining until they have."""
        if self._replicas is None:
            self._replicas = self._work_out()
        return self._replicas

    @property
    def busy(self) -> bool:
        """Requests run here, or an attach is under way."""
        if self._busy is None:
            self._busy = bool(self._orders) or any(r.ongoing for r in self.report.replicas)
        return self._busy

    def attaching_paths(self) -> list[str]:
        """Checkpoints that are ordered to be mapped here."""
        return [order.path for order, _ in self._orders.values()]

    def served(self) -> list[tuple[ReplicaReport, int, float]]:
        """Replicas in which requests have ended since last time: how many, seconds each."""
        ended: list[tuple[ReplicaReport, int, float]] = []
        now: dict[str, tuple[int, float]] = {}
        for each in self.report.replicas:
            before, before_s = self._served.get(each.revision_id, (0, 0.0))
            if each.served < before:  # it was attached anew
                before, before_s = 0, 0.0
            now[each.revision_id] = (each.served, each.served_s)
            more = each.served - before
            if more:
                ended.append((each, more, max(0.0, each.served_s - before_s) / more))
        self._served = now
        return ended

    def cold_started(self) -> list[tuple[ReplicaReport, Tier, float]]:
        """Starts whose weights are all there now: replica, tier, seconds since the order."""
        measured: list[tuple[ReplicaReport, Tier, float]] = []
        if not self._starting:
            return measured
        here = {r.revision_id: r for r in self.report.replicas}
        for revision_id, began_s in list(self._starting.items()):
            replica = here.get(revision_id)
            if replica is None:
                del self._starting[revision_id]  # gone before it was all there
            elif replica.tier is not None and replica.staged_s is not None:
                del self._starting[revision_id]
                took_s = max(0.0, max(replica.since_s, replica.staged_s) - began_s)
                measured.append((replica, Tier(replica.tier), took_s))
        return measured

    def drained(self) -> list[str]:
        """Revisions whose last stream has ended since they were to be drained."""
        if not self._draining:
            return []
        here = {r.revision_id: r for r in self.report.replicas}
        self._draining &= here.keys()
        return [each for each in sorted(self._draining) if not here[each].ongoing]

    def snapshot(self) -> WorkerView:
        info = self.info
        return WorkerView(
            info.worker_id,
            info.node_id,
            info.capacity_bytes,
            info.max_replicas,
            tuple(_replica_view(r) for r in self.replicas()),
        )

    def _work_out(self) -> tuple[ReplicaReport, ...]:
        going = {victim for order, _ in self._orders.values() for victim in order.evict}
        going |= self._leaving | self._draining
        here = {
            r.revision_id: replace(r, phase="draining") if r.revision_id in going else r
            for r in self.report.replicas
        }
        for revision_id, (order, at_s) in self._orders.items():
            here.setdefault(
                revision_id,
                ReplicaReport(order.model, revision_id, order.nbytes, "attaching", at_s, 0, None),
            )
        return tuple(here.values())

    def _touch(self) -> None:
        self._replicas = self._busy = None
        self._touched(self.info.worker_id)


def _replica_view(report: ReplicaReport) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        model=report.model,
        revision_id=report.revision_id,
        nbytes=report.nbytes,
        phase=Phase(report.phase),
        since_s=report.since_s,
        ongoing=report.ongoing,
        idle_since_s=report.idle_since_s,
    )
