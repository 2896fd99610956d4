"""Carries a policy's orders out on the simulated machines, and tells it what has come of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from pilotlight_autoscaler.decision import Attach, Decision, PoolTarget
from pilotlight_autoscaler.protocol import Policy
from pilotlight_autoscaler.simulation.agenda import Agenda
from pilotlight_autoscaler.simulation.errors import InvariantError
from pilotlight_autoscaler.simulation.machines import Model, Replica, SharedLink
from pilotlight_autoscaler.simulation.meters import Meters
from pilotlight_autoscaler.simulation.pool import WorkerPool
from pilotlight_autoscaler.simulation.setting import Setting
from pilotlight_autoscaler.simulation.trace import US_PER_S
from pilotlight_autoscaler.snapshot import ATTACHING, DRAINING, READY, StartingWorker


class Actuator:
    """Attach, detach, drain, resize. *on_ready* and *on_gone* are the loop's."""

    def __init__(
        self,
        setting: Setting,
        models: dict[str, Model],
        policy: Policy,
        agenda: Agenda,
        meters: Meters,
        *,
        on_ready: Callable[[int, Replica], None],
        on_gone: Callable[[int, Replica], None],
    ) -> None:
        self.pool = WorkerPool(setting.pool, tuple(models))
        self._setting = setting
        self._models = models
        self._policy = policy
        self._agenda = agenda
        self._meters = meters
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._attach_us = round(setting.pool.links.attach_s * US_PER_S)
        self._noise_sigma = setting.load_noise
        self._random = Random()  # seeded anew for each load
        self._starts = dict.fromkeys(models, 0)

    def apply(self, now_us: int, decision: Decision) -> None:
        workers = self.pool.workers
        for detach in decision.detach:
            self.remove(now_us, workers[detach.worker_id].replicas[detach.revision_id])
        for attach in decision.attach:
            self._attach(now_us, attach)
        for drain in decision.drain:
            self._drain(now_us, workers[drain.worker_id].replicas[drain.revision_id])
        if decision.pool is not None and self._setting.pool.elastic:
            self._resize(now_us, decision.pool)

    def remove(self, now_us: int, replica: Replica) -> None:
        """Take an idle replica off. Raises InvariantError if it serves or loads."""
        if replica.phase is ATTACHING or replica.idle_since_us is None:
            raise InvariantError(f"{replica.model.name} is stopped while it works")
        replica.worker.remove(replica)
        if replica.phase is READY:
            replica.model.ready.remove(replica)
        self._meters.idled(replica, now_us)
        self._meters.stops += 1
        self._policy.remove_replica(replica.worker.worker_id, replica.model.name)
        self._on_gone(now_us, replica)

    def close(self, horizon_us: int) -> None:
        """Account for what still is there at the end."""
        for worker in self.pool.workers.values():
            self._meters.worker(worker.since_us, horizon_us)
            for replica in worker.replicas.values():
                self._meters.rest(replica, horizon_us)

    def _attach(self, now_us: int, order: Attach) -> None:
        worker = self.pool.workers[order.worker_id]
        for revision_id in order.evict:
            self.remove(now_us, worker.replicas[revision_id])
        model = self._models[order.model]
        replica = Replica(model, worker, now_us, worker.node.tier(order.model))
        replica.prewarmed = not model.unfinished
        worker.add(replica)
        self._meters.starts += 1
        self._meters.prewarms += replica.prewarmed
        self._policy.update_replica(worker.worker_id, replica.snapshot())
        if self._attach_us:
            self._agenda.at(now_us + self._attach_us, self._begin_load, replica)
        else:
            self._begin_load(now_us, replica)

    def _begin_load(self, now_us: int, replica: Replica) -> None:
        model = replica.model
        link = replica.worker.node.loads[replica.tier]
        noise = self._noise(model.name) if self._noise_sigma else 1.0
        link.begin(replica, model.nbytes / link.bytes_per_s * noise * US_PER_S, now_us)
        self._expect(link)

    def _noise(self, name: str) -> float:
        """A factor on the time of a model's next load; its n-th is the same under every policy."""
        sigma = self._noise_sigma
        self._random.seed(f"{self._setting.seed}/{name}/{self._starts[name]}")
        self._starts[name] += 1
        return math.exp(self._random.gauss(-sigma * sigma / 2, sigma))

    def _expect(self, link: SharedLink) -> None:
        next_us = link.next_us()
        if next_us is not None:
            self._agenda.at(next_us, self._end_loads, (link, link.version))

    def _end_loads(self, now_us: int, about: tuple[SharedLink, int]) -> None:
        link, version = about
        if version != link.version:
            return
        for replica in link.end(now_us):
            self._loaded(now_us, replica)
        self._expect(link)

    def _loaded(self, now_us: int, replica: Replica) -> None:
        model, worker = replica.model, replica.worker
        self._meters.loaded(replica, now_us)
        self._policy.cold_started(model.name, replica.tier, (now_us - replica.since_us) / US_PER_S)
        replica.phase = READY
        replica.since_us = replica.idle_since_us = now_us
        model.ready.append(replica)
        if worker.node.keep(model.spec):
            self._policy.update_node(worker.node.snapshot())
        self._on_ready(now_us, replica)

    def _drain(self, now_us: int, replica: Replica) -> None:
        if replica.phase is not READY:
            raise InvariantError(f"{replica.model.spec.name} is drained before it is ready")
        if replica.idle_since_us is not None:
            return self.remove(now_us, replica)
        replica.phase = DRAINING
        replica.since_us = now_us
        replica.model.ready.remove(replica)
        self._policy.update_replica(replica.worker.worker_id, replica.snapshot())

    def _resize(self, now_us: int, target: PoolTarget) -> None:
        pool = self.pool
        live = len(pool.workers) + len(pool.starting)
        start_us = round(pool.pool.worker_start_s * US_PER_S)
        for _ in range(min(target.workers, pool.most) - live):
            self._agenda.at(now_us + start_us, self._worker_up, pool.begin(now_us))
        for worker_id in target.spare[: max(0, live - target.workers)]:
            worker = pool.workers.get(worker_id)
            if worker is not None and not worker.replicas:
                self._meters.worker(pool.stop(worker_id).since_us, now_us)
                self._policy.remove_worker(worker_id)
        self._tell_starting()

    def _worker_up(self, now_us: int, worker_id: str) -> None:
        self._policy.update_worker(self.pool.started(worker_id, now_us).snapshot())
        self._tell_starting()

    def _tell_starting(self) -> None:
        starting = self.pool.starting.items()
        self._policy.update_starting(
            tuple(StartingWorker(worker_id, since / US_PER_S) for worker_id, since in starting)
        )
