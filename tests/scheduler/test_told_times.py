"""How long requests and cold starts take, and who waits for one, as the policy is told."""

from dataclasses import replace

from support.records import model_record
from support.told_world import POOL, World

from pilotlight_autoscaler import Autoscaler, Tier
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told


def test_told_learns_how_long_requests_take_where_they_run() -> None:
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.queue(0, 1)
    world.apply(world.step())
    world.answer(0, 2)
    worker = world.cluster.workers["w0"]
    (replica,) = worker.report.replicas
    world.report("w0", (replace(replica, served=3, served_s=12.0),))
    world.changes.measured(worker)
    learned_s = world.changes.autoscaler.view("a").service_s

    assert learned_s == 4.0
    assert world.changes.lessons > world.everything.lessons  # it is to be saved


def test_told_does_not_count_times_of_an_older_revision() -> None:
    world = World()
    world.deploy(0, 0)  # a-1
    world.step()
    world.changes.cold_started("a", "a-0", Tier.HOST, 60.0)
    world.changes.served("a", "a-0", 1, 60.0)
    view = world.changes.autoscaler.view("a")

    assert (view.service_s, view.learned.cold_starts.typical_s()) == (0.0, None)


def test_told_gives_what_a_start_was_foretold_to_take_until_one_is_measured() -> None:
    record = model_record("a", nbytes=100)
    cluster = Cluster({"a": record.model_copy(update={"predicted_load_s": {Tier.DISK: 7.5}})})
    told = Told(Autoscaler(POOL))
    told.tell(cluster, 1000.0)
    foretold_s = told.autoscaler.view("a").cold_start_s
    told.cold_started("a", "a-1", Tier.DISK, 3.0)

    assert (foretold_s, told.autoscaler.view("a").cold_start_s) == (7.5, 3.0)


def test_told_counts_nobody_twice_who_queued_and_then_waits_in_a_replica() -> None:
    world = World()
    world.deploy(0, 0)
    world.step()
    told = world.changes
    told.rested("a", 900.0)
    told.arrived("a", 1000.0, 2)
    burst = told.autoscaler.view("a").learned.burst
    told.joined("a", 1000.0, 2)
    queued = burst.waiting
    told.joined("a", 1000.0, 5)
    told.joined("a", 1000.0, 5)

    assert (queued, burst.waiting) == (2.0, 5.0)
