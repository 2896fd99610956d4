"""The policy is told of what changes: it must decide as one that is told everything each time."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.records import model_record
from support.told_world import POOL, World

from pilotlight_autoscaler import Autoscaler
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.told import Told

EVENTS = (
    World.deploy,
    World.delete,
    World.configure,
    World.join,
    World.lose,
    World.leave_pool,
    World.drain,
    *[World.prepare] * 2,
    *[World.queue] * 4,
    *[World.answer] * 4,
    *[World.detached] * 3,
    *[World.request] * 4,
    *[World.wait] * 4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(EVENTS))), st.integers(0, 11), st.integers(0, 59)),
        min_size=20,
        max_size=80,
    )
)
# Two busy replicas whose average load falls, with no event, to what one of them takes.
@example(
    [
        *[(9, 0, 0), (9, 3, 2), (2, 0, 0), (2, 0, 0), (20, 1, 2), *[(1, 0, 0)] * 3],
        *[(9, 0, 3), (13, 1, 2), *[(0, 0, 0)] * 9, (20, 1, 8)],
    ]
)
# Part of what a delay has held back finds no room: the next look is due though nothing happens.
@example(
    [
        *[(1, 0, 0), (0, 0, 0), (0, 1, 29), (13, 0, 2), (13, 0, 2), (24, 1, 3), (9, 1, 3)],
        *[(24, 0, 2), (24, 0, 4), (13, 2, 3)],
    ]
)
# An order that evicts a replica whose time has come is refused before it was told of.
@example(
    [
        *[*[(0, 0, 0)] * 2, (0, 0, 3), *[(1, 0, 0)] * 2, (13, 0, 2), *[(0, 0, 0)] * 5],
        *[*[(13, 0, 0)] * 2, (0, 0, 0), (4, 0, 0), (9, 0, 1), (13, 0, 2)],
        *[(0, 1, 3), (24, 0, 5), (13, 0, 1)],
    ]
)
def test_told_of_changes_decides_as_one_told_everything(
    events: list[tuple[int, int, int]],
) -> None:
    world = World()
    for n in range(4):
        world.deploy(n, n)
        world.join(n, 3)
        world.prepare(n, n)
        world.prepare(n + 1, n)
    for n in range(3):  # most begin with a replica
        world.queue(n, 1)
        world.apply(world.step())
        world.answer(0, 2)
        world.queue(n, 0)
    for which, n, m in events:
        EVENTS[which](world, n, m)
        world.apply(world.step())
    # At rest: the timers that are left must be the same, too.
    for _ in range(3):
        world.now_s += 30.0
        world.apply(world.step())


def test_told_says_nothing_twice() -> None:
    world = World()
    world.deploy(0, 0)
    world.join(0, 0)
    world.step()
    calls: list[str] = []

    class Spy(Autoscaler):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith(("update_", "remove_")):
                calls.append(name)
            return super().__getattribute__(name)

    world.changes.autoscaler.__class__ = Spy
    world.cluster.models["a"].want("g", 0, world.now_s)
    world.step()
    quiet = list(calls)
    world.cluster.models["a"].want("g", 2, world.now_s)
    world.step()

    assert quiet == []
    assert calls == ["update_queue"]


def test_told_of_a_deploy_once_and_not_of_what_was_live_before() -> None:
    record = model_record("a", prewarm={"on_deploy": True})
    cluster, told = Cluster({"a": record}), Told(Autoscaler(POOL))
    told.tell(cluster, 1000.0)
    cluster.deploy(record)
    told.tell(cluster, 1000.0)
    assert not told.autoscaler.view("a").learned.first_due

    revision = record.revision.model_copy(update={"id": "a-2"})
    cluster.deploy(record.model_copy(update={"revision": revision}))
    lessons = told.lessons
    told.tell(cluster, 1001.0)
    assert told.autoscaler.view("a").learned.first_due
    assert told.lessons > lessons  # a restart is to know it
