"""``decide`` as a function: the cluster and what was remembered in, what to do and remember out."""

from __future__ import annotations

from pilotlight_autoscaler.autoscaler import Autoscaler
from pilotlight_autoscaler.decision import Decision
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.snapshot import ClusterSnapshot, ModelSnapshot
from pilotlight_autoscaler.state import PolicyState


def decide(
    cluster: ClusterSnapshot,
    models: tuple[ModelSnapshot, ...],
    config: PoolConfig,
    state: PolicyState,
    now_s: float,
) -> tuple[Decision, PolicyState]:
    """The same decision as an Autoscaler that was told the same step by step; no side effects.

    Raises InputError, ClockError.
    """
    autoscaler = Autoscaler(config)
    autoscaler.restore(state)
    for node in cluster.nodes:
        autoscaler.update_node(node)
    for worker in cluster.workers:
        autoscaler.update_worker(worker)
    autoscaler.update_starting(cluster.starting)
    for model in models:
        autoscaler.update_model(model)
    return autoscaler.decide(now_s), autoscaler.state()
