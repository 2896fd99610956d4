"""The notifying half of the policy: what it is told goes to the mirror and the lessons."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler.lessons import Lessons
from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.pool import Pool
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.rules import Rules
from pilotlight_autoscaler.snapshot import (
    ModelSnapshot,
    NodeSnapshot,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)
from pilotlight_autoscaler.watch import Watch


class Notified:
    """Knows the cluster, decides nothing. See ``Policy`` for what each method is told."""

    def __init__(self, pool: PoolConfig, rules: Rules) -> None:
        self._rules = rules
        self._mirror = Mirror()
        self._look = Look(rules)
        self._watch = Watch(self._mirror, self._look)
        self._lessons = Lessons(self._mirror, self._look)
        self._pool = Pool(pool)
        self._look.max_prewarm_share = pool.max_prewarm_share

    def update_model(self, model: ModelSnapshot) -> None:
        self._mirror.update_model(model)

    def update_queue(self, model: str, queued: int, oldest_queued_since_s: float | None) -> None:
        self._mirror.update_queue(model, queued, oldest_queued_since_s)

    def remove_model(self, name: str) -> None:
        self._mirror.remove_model(name)
        self._watch.forget(name)

    def update_worker(self, worker: WorkerSnapshot) -> None:
        self._mirror.update_worker(worker)

    def update_replica(self, worker_id: str, replica: ReplicaSnapshot) -> None:
        self._mirror.update_replica(worker_id, replica)

    def update_load(
        self, worker_id: str, revision_id: str, ongoing: int, idle_since_s: float | None
    ) -> None:
        self._mirror.update_load(worker_id, revision_id, ongoing, idle_since_s)

    def remove_replica(self, worker_id: str, revision_id: str) -> None:
        self._mirror.remove_replica(worker_id, revision_id)

    def remove_worker(self, worker_id: str) -> None:
        self._mirror.remove_worker(worker_id)

    def update_node(self, node: NodeSnapshot) -> None:
        self._mirror.update_node(node)

    def remove_node(self, node_id: str) -> None:
        self._mirror.remove_node(node_id)

    def update_starting(self, starting: tuple[StartingWorker, ...]) -> None:
        self._mirror.update_starting(starting)

    def update_pool(self, config: PoolConfig) -> None:
        """Other bounds of the pool, from the next decision on."""
        self._pool.configure(config)
        self._mirror.pool_changed = True
        self._look.max_prewarm_share = config.max_prewarm_share
        self._mirror.room_changed = True

    def arrived(self, model: str, at_s: float, requests: int = 1) -> None:
        self._lessons.arrived(model, at_s, requests)

    def finished(self, model: str, at_s: float, left: int, service_s: float | None = None) -> None:
        self._lessons.finished(model, at_s, left, service_s)

    def deployed(self, model: str) -> None:
        self._lessons.deployed(model)

    def cold_started(self, model: str, tier: Tier, seconds: float) -> None:
        self._lessons.cold_started(model, tier, seconds)

    def answered_cold(
        self, model: str, revision_id: str, tier: Tier, seconds: float, spans: Mapping[str, float]
    ) -> None:
        """A cold start has given its first token. Remembered for people; nothing is decided on it.

        A revision that is not the model's present one is not counted.
        """
        self._lessons.answered_cold(model, revision_id, tier, seconds, spans)
