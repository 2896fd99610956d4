"""When a model rests and when it does not, as reports and arrivals tell it: gaps are learned."""

from dataclasses import replace

import pytest
from support.told_world import World

from pilotlight_autoscaler.gaps import bin_of
from pilotlight_platform.schemas.cluster import ReplicaReport, WorkerInfo


def resting() -> tuple[World, ReplicaReport]:
    """Model a is ready on w0 and rests since 1000 s."""
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.queue(0, 1)
    world.apply(world.step())
    world.answer(0, 2)
    world.queue(0, 0)
    world.step()
    world.changes.rested("a", 1000.0)
    (replica,) = world.cluster.workers["w0"].report.replicas
    return world, replica


def test_told_of_a_visit_between_two_reports_ends_a_gap_where_it_began() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.report("w0", (replace(replica, idle_since_s=1100.0, served=1, served_s=0.05),))
    world.changes.measured(world.cluster.workers["w0"])
    assert list(learned.gaps.counts) == [bin_of(99.95)]
    assert learned.idle_since_s is None

    world.changes.rested("a", 1100.0)
    assert learned.idle_since_s == 1100.0


def test_told_of_what_a_report_has_shown_running_ends_no_second_gap() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.changes.arrived("a", 1050.0, 1, warm=True)
    world.report("w0", (replace(replica, idle_since_s=1100.0, served=1, served_s=50.0),))
    world.changes.measured(world.cluster.workers["w0"])

    assert list(learned.gaps.counts) == [bin_of(50.0)]


def test_told_of_a_visit_while_another_request_runs_leaves_the_gap_to_that() -> None:
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    busy = replace(replica, ongoing=1, idle_since_s=None, served=1, served_s=0.05)
    world.report("w0", (busy,))
    world.changes.measured(world.cluster.workers["w0"])

    assert (learned.gaps.observed, learned.service_s) == (0, 0.05)


@pytest.mark.parametrize("first", [0, 1])
def test_told_of_visits_to_two_replicas_at_once_ends_one_gap(first: int) -> None:
    """Both are over before any report, one of them 30 ms after the other."""
    world, replica = resting()
    learned = world.changes.autoscaler.view("a").learned
    world.cluster.join(WorkerInfo("w9", "n", 1, 1, 1000, 2, 400, {}))
    world.report("w9", (replica,))
    world.cluster.workers["w9"].served()
    ends = [("w0", 1100.0), ("w9", 1100.03)]
    for worker_id, ended_s in ends if first == 0 else reversed(ends):
        served = replace(replica, idle_since_s=ended_s, served=1, served_s=0.05)
        world.report(worker_id, (served,))
        world.changes.measured(world.cluster.workers[worker_id])
        world.changes.rested("a", ended_s)

    assert learned.gaps.observed == 1
    assert learned.idle_since_s == 1100.03


def test_told_of_a_rest_before_the_latest_arrival_lets_it_begin_there() -> None:
    world, _ = resting()
    world.changes.arrived("a", 1050.0, 1)
    world.changes.rested("a", 1000.0)

    assert world.changes.autoscaler.view("a").learned.idle_since_s == 1050.0


def test_told_learns_no_gaps_while_a_clock_that_was_set_back_has_not_caught_up() -> None:
    world, _ = resting()
    told = world.changes
    told.arrived("a", 2000.0, 1)
    counted = dict(told.autoscaler.view("a").learned.gaps.counts)
    for at_s in (900.0, 1000.0, 1100.0):
        told.rested("a", at_s)
        told.arrived("a", at_s + 90, 1)
    learned = told.autoscaler.view("a").learned

    assert learned.gaps.counts == counted
    told.rested("a", 1200.0)
    told.arrived("a", 2100.0, 1)
    assert learned.gaps.observed == 2
