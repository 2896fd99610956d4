"""The Ray Serve router of the worker pool: a request goes to the worker it names."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from pilotlight_platform.errors import ReplicaGoneError
from pilotlight_platform.running import note_running


class WorkerRouter(RequestRouter):  # type: ignore[misc]  # Ray ships no types
    """Targets the worker whose replica id stands in the request's ``multiplexed_model_id``.

    Serve would retry a target that has gone for ever, on one of a few shared routing tasks; here
    it fails at once with ReplicaGoneError and the caller routes again.
    """

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        note_running(frozenset(r.replica_id.unique_id for r in replicas))

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return []
        target = pending_request.metadata.multiplexed_model_id
        matches = [r for r in candidate_replicas if r.replica_id.unique_id == target]
        if matches:
            return [matches]
        if not pending_request.future.done():
            pending_request.future.set_exception(ReplicaGoneError(f"worker {target} is not there"))
            self._remove_pending_request_from_indices(pending_request)
        # Serve looks at the future only when it is offered candidates; a done one is passed over.
        return [candidate_replicas]

    @property
    def supports_rejection_protocol(self) -> bool:
        # Capacity is the scheduler's and the gateway's business: skip Serve's extra round trip.
        return False
