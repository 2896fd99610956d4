"""Pure autoscaling decisions: a snapshot and the time in, a decision with its reasons out."""

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.policy import decide
from pilotlight_autoscaler.snapshot import (
    Attach,
    ClusterSnapshot,
    Decision,
    Detach,
    ModelSnapshot,
    Phase,
    ReplicaSnapshot,
    Unplaced,
    WorkerSnapshot,
)

__all__ = [
    "Attach",
    "AutoscalingConfig",
    "ClusterSnapshot",
    "Decision",
    "Detach",
    "ModelSnapshot",
    "Phase",
    "ReplicaSnapshot",
    "Unplaced",
    "WorkerSnapshot",
    "decide",
]
