"""A registered worker: starts and requests that its reports show to have ended."""

import pytest

from pilotlight_autoscaler import Tier
from pilotlight_platform.scheduler.worker_state import WorkerState
from pilotlight_platform.schemas.cluster import ReplicaReport, WorkerInfo, WorkerReport


def started(**change: object) -> WorkerState:
    worker = WorkerState(WorkerInfo("w", "node", 1, 1, 1000, 4), lambda worker_id: None)
    worker.ordered("a-1", 10.0)
    values = {"since_s": 10.1, "ongoing": 0, "idle_since_s": None, **change}
    report = ReplicaReport("a", "a-1", 100, "ready", **values)  # type: ignore[arg-type]
    worker.observe(WorkerReport(1, (report,)))
    return worker


def cold_starts(worker: WorkerState) -> list[tuple[str, Tier, float]]:
    return [(replica.model, tier, seconds) for replica, tier, seconds in worker.cold_started()]


def test_cold_start_from_memory_ends_when_it_is_ready() -> None:
    assert cold_starts(started(tier="host", staged_s=10.05)) == [
        ("a", Tier.HOST, pytest.approx(0.1))
    ]


def test_cold_start_from_the_disk_ends_with_its_last_page() -> None:
    worker = started()
    before = cold_starts(worker)
    late = ReplicaReport("a", "a-1", 100, "ready", 10.1, 1, None, "disk", 12.0)
    worker.observe(WorkerReport(2, (late,)))

    assert before == []
    assert cold_starts(worker) == [("a", Tier.DISK, pytest.approx(2.0))]
    assert worker.cold_started() == []


def test_cold_start_of_a_replica_that_has_gone_is_not_counted() -> None:
    worker = started()
    worker.observe(WorkerReport(2, ()))
    gone = worker.cold_started()
    later = ReplicaReport("a", "a-1", 100, "ready", 20.1, 0, None, "host", 20.1)
    worker.observe(WorkerReport(3, (later,)))

    assert gone == []
    assert worker.cold_started() == []


def serving(number: int, *counts: tuple[str, int, float]) -> WorkerReport:
    """A report of replicas by revision: requests that have ended there, and their seconds."""
    return WorkerReport(
        number,
        tuple(
            ReplicaReport("a", revision, 1, "ready", 0.0, 0, 0.0, served=n, served_s=seconds)
            for revision, n, seconds in counts
        ),
    )


def ended(worker: WorkerState) -> list[tuple[str, int, float]]:
    return [(replica.revision_id, n, seconds) for replica, n, seconds in worker.served()]


def known(*counts: tuple[str, int, float]) -> WorkerState:
    worker = WorkerState(WorkerInfo("w", "node", 1, 1, 1000, 4), lambda worker_id: None)
    worker.observe(serving(1, *counts))
    return worker


def test_worker_tells_each_request_that_has_ended_once() -> None:
    worker = known(("a-1", 0, 0.0))
    worker.observe(serving(2, ("a-1", 2, 6.0)))
    first = ended(worker)
    again = ended(worker)
    worker.observe(serving(3, ("a-1", 3, 7.0)))

    assert (first, again, ended(worker)) == ([("a-1", 2, 3.0)], [], [("a-1", 1, 1.0)])


def test_worker_of_an_earlier_scheduler_tells_only_what_has_ended_since() -> None:
    worker = known(("a-1", 100, 900.0))
    before = ended(worker)
    worker.observe(serving(2, ("a-1", 101, 902.0)))

    assert (before, ended(worker)) == ([], [("a-1", 1, 2.0)])


def test_worker_counts_a_replica_that_was_attached_anew_from_zero() -> None:
    worker = known(("a-1", 5, 10.0))
    worker.observe(serving(2, ("a-1", 1, 4.0)))

    assert ended(worker) == [("a-1", 1, 4.0)]
