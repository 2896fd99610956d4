"""Pure autoscaling decisions: what changes and the time in, decisions with their reasons out."""

from pilotlight_autoscaler.autoscaler import Autoscaler
from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.decision import (
    Attach,
    Decision,
    Detach,
    Drain,
    PoolTarget,
    Reason,
    Rule,
    Unplaced,
)
from pilotlight_autoscaler.errors import AutoscalerError, ClockError, InputError, StateError
from pilotlight_autoscaler.keep_alive import Prewarm, Windows
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.policy import decide
from pilotlight_autoscaler.pool_config import ClusterFile, PoolConfig
from pilotlight_autoscaler.protocol import Policy
from pilotlight_autoscaler.rules import KeepAlive, Residency, Rules
from pilotlight_autoscaler.snapshot import (
    ClusterSnapshot,
    ModelSnapshot,
    NodeSnapshot,
    Phase,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)
from pilotlight_autoscaler.state import PolicyState

__all__ = [
    "Attach",
    "Autoscaler",
    "AutoscalerError",
    "AutoscalingConfig",
    "ClockError",
    "ClusterFile",
    "ClusterSnapshot",
    "Decision",
    "Detach",
    "Drain",
    "InputError",
    "KeepAlive",
    "ModelSnapshot",
    "ModelView",
    "NodeSnapshot",
    "Phase",
    "Policy",
    "PolicyState",
    "PoolConfig",
    "PoolTarget",
    "Prewarm",
    "Reason",
    "ReplicaSnapshot",
    "Residency",
    "Rule",
    "Rules",
    "StartingWorker",
    "StateError",
    "Tier",
    "Unplaced",
    "Windows",
    "WorkerSnapshot",
    "decide",
]
