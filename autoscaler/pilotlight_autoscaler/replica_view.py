"""A replica in the mirror: what was told of it last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotlight_autoscaler.snapshot import ATTACHING, READY, ReplicaSnapshot

if TYPE_CHECKING:
    from pilotlight_autoscaler.model_view import ModelView


class ReplicaView:
    """The fields of a ``ReplicaSnapshot``. Its load changes in place: with every request."""

    __slots__ = (
        "counted_by",
        "idle_since_s",
        "model",
        "nbytes",
        "ongoing",
        "phase",
        "revision_id",
        "since_s",
    )

    def __init__(self, snapshot: ReplicaSnapshot) -> None:
        self.counted_by: ModelView | None = None  # among its live replicas
        self.tell(snapshot)

    def tell(self, snapshot: ReplicaSnapshot) -> None:
        """It is like this now."""
        self.model = snapshot.model
        self.revision_id = snapshot.revision_id
        self.nbytes = snapshot.nbytes
        self.phase = snapshot.phase
        self.since_s = snapshot.since_s
        self.ongoing = snapshot.ongoing
        self.idle_since_s = snapshot.idle_since_s

    def is_same(self, snapshot: ReplicaSnapshot) -> bool:
        """Whether *snapshot* is of the same replica in the same phase."""
        return (
            self.phase is snapshot.phase
            and self.since_s == snapshot.since_s
            and self.nbytes == snapshot.nbytes
            and self.model == snapshot.model
        )

    def is_ready_now(self, snapshot: ReplicaSnapshot) -> bool:
        """Whether *snapshot* says that its attach has ended, and nothing else."""
        return (
            self.phase is ATTACHING
            and snapshot.phase is READY
            and self.nbytes == snapshot.nbytes
            and self.model == snapshot.model
        )


def idle_since_s(replica: ReplicaView) -> float:
    """Since when a ready replica serves nothing; since it is ready if nobody has said."""
    return replica.since_s if replica.idle_since_s is None else replica.idle_since_s
