"""What drives a policy, in production and in the simulator: told what changes, asked what to do."""

from __future__ import annotations

from typing import Protocol

from pilotlight_autoscaler.decision import Decision
from pilotlight_autoscaler.snapshot import (
    ModelSnapshot,
    NodeSnapshot,
    ReplicaSnapshot,
    StartingWorker,
    Tier,
    WorkerSnapshot,
)


class Policy(Protocol):
    """A mirror of the cluster that decides. What it is told holds until it is told otherwise.

    Everything may raise InputError, which names the value that is not finite, negative or unknown.
    """

    def update_model(self, model: ModelSnapshot) -> None:
        """A model is new, or anything of it has changed."""

    def update_queue(self, model: str, queued: int, oldest_queued_since_s: float | None) -> None:
        """Only the queue has changed: cheaper than ``update_model``."""

    def remove_model(self, name: str) -> None:
        """It is gone, and what was learned of it is forgotten."""

    def update_worker(self, worker: WorkerSnapshot) -> None:
        """A worker is new, or what it holds has changed."""

    def update_replica(self, worker_id: str, replica: ReplicaSnapshot) -> None:
        """One replica of a known worker has changed or is new: cheaper than ``update_worker``."""

    def update_load(
        self, worker_id: str, revision_id: str, ongoing: int, idle_since_s: float | None
    ) -> None:
        """Requests have come to a known replica or gone from it: cheaper than update_replica."""

    def remove_replica(self, worker_id: str, revision_id: str) -> None:
        """One replica of a known worker is gone: cheaper than ``update_worker``."""

    def remove_worker(self, worker_id: str) -> None:
        """It is gone with all that it held."""

    def update_node(self, node: NodeSnapshot) -> None:
        """Tiers or bandwidths of a machine have changed."""

    def remove_node(self, node_id: str) -> None:
        """The machine is gone (its workers are removed one by one)."""

    def update_starting(self, starting: tuple[StartingWorker, ...]) -> None:
        """The worker processes that have been asked for and have not registered yet."""

    def arrived(self, model: str, at_s: float, requests: int = 1) -> None:
        """Requests have come, warm or cold; ends an idle gap if there was one."""

    def finished(self, model: str, at_s: float, left: int, service_s: float | None = None) -> None:
        """A request has ended after *service_s*; *left* of the model still run or wait.

        With none left, an idle gap begins.
        """

    def deployed(self, model: str) -> None:
        """The revision that it was last told of has just gone live, not only become known here."""

    def cold_started(self, model: str, tier: Tier, seconds: float) -> None:
        """An attach took so long from its order to a ready replica."""

    def patience_s(self, model: str) -> float:
        """How long it need not be asked although the model's replica is ready, busy or idle now.

        What else happens must be told and asked about as ever, and then this, too.
        """

    def decide(self, now_s: float) -> Decision:
        """What to do. Asked again before it is told of the change, it says the same again.

        Raises ClockError when *now_s* is before the last decision.
        """
