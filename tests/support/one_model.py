"""An autoscaler with one model on workers that hold one replica each, told as a scheduler tells."""

from dataclasses import replace

from support.snapshots import GB

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    Decision,
    ModelSnapshot,
    Phase,
    PoolConfig,
    ReplicaSnapshot,
    WorkerSnapshot,
)


class OneModel:
    """Model "a", whose revision is "a-1", and workers "w0", "w1", ..."""

    def __init__(
        self, pool: PoolConfig, *, workers: int, cold_start_s: float, **config: object
    ) -> None:
        self.autoscaler = Autoscaler(pool)
        self.model = ModelSnapshot(
            "a", "a-1", GB, AutoscalingConfig.model_validate(config), cold_start_s=cold_start_s
        )
        for n in range(workers):
            self.join(n)
        self.autoscaler.update_model(self.model)

    def join(self, n: int, *held: ReplicaSnapshot) -> None:
        self.autoscaler.update_worker(WorkerSnapshot(f"w{n}", "node", GB, 1, held))

    def put(self, worker_id: str, phase: Phase, now_s: float, ongoing: int = 0) -> None:
        idle_since_s = now_s if phase is Phase.READY and not ongoing else None
        self.autoscaler.update_replica(
            worker_id, ReplicaSnapshot("a", "a-1", GB, phase, now_s, ongoing, idle_since_s)
        )

    def configure(self, **config: object) -> None:
        settings = self.model.config.model_dump() | config
        self.model = replace(self.model, config=AutoscalingConfig.model_validate(settings))
        self.autoscaler.update_model(self.model)

    def decide_at(self, now_s: float) -> Decision:
        """What is decided then; its attaches are carried out, but not ended."""
        decision = self.autoscaler.decide(now_s)
        for each in decision.attach:
            self.put(each.worker_id, Phase.ATTACHING, now_s)
        return decision
