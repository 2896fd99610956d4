"""Whom Serve would stop is emptied first, and Serve is told fewer only then."""

from typing import Any

from pilotlight_platform.scheduler.pool_keeper import (
    Member,
    PoolKeeper,
    head_node_id,
    in_serves_order,
)


def keeper(want: int | None) -> PoolKeeper:
    made = PoolKeeper("head")
    made.want = want
    return made


def member(worker_id: str, *, busy: bool = False, node: str = "head") -> Member:
    return Member(worker_id, node, busy)


def test_pool_grows_at_once() -> None:
    pool = keeper(3)
    pool.plan([member("a")])

    assert (pool.target, pool.leaving) == (3, frozenset())


def test_pool_that_was_not_decided_on_is_left_alone() -> None:
    pool = keeper(None)
    pool.plan([member("a"), member("b")])

    assert pool.target is None


def test_idle_newest_worker_leaves_at_once() -> None:
    pool = keeper(1)
    pool.plan([member("old", busy=True), member("new")])

    assert (pool.target, pool.leaving, pool.emptied) == (1, {"new"}, {"new"})


def test_busy_worker_survives_until_its_streams_have_ended() -> None:
    pool = keeper(1)
    pool.plan([member("old"), member("new", busy=True)])
    while_busy = (pool.target, pool.leaving, pool.emptied)
    pool.plan([member("old"), member("new")])

    assert while_busy == (2, {"new"}, frozenset())
    assert (pool.target, pool.emptied) == (1, {"new"})


def test_idle_worker_behind_a_busy_one_is_not_told_as_gone() -> None:
    pool = keeper(0)
    pool.plan([member("a"), member("b"), member("c", busy=True)])

    assert pool.target == 3  # Serve would take c


def test_worker_stays_after_all_when_it_is_wanted_again() -> None:
    pool = keeper(1)
    members = [member("a"), member("b", busy=True)]
    pool.plan(members)
    pool.want = 2
    pool.plan(members)

    assert (pool.target, pool.leaving) == (2, frozenset())


def test_pool_empties_to_zero() -> None:
    pool = keeper(0)
    pool.plan([member("a")])

    assert (pool.target, pool.emptied) == (0, {"a"})


def test_serve_takes_other_nodes_first_then_the_newest() -> None:
    members = [member("a"), member("b", node="x"), member("c"), member("d", node="y")]
    members.append(member("e", node="y"))

    order = [each.worker_id for each in in_serves_order(members, "head")]
    assert order == ["b", "e", "d", "c", "a"]


def test_head_node_is_the_one_alive_that_ray_calls_so() -> None:
    def node(node_id: str, *resources: str, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": node_id, "Alive": alive, "Resources": dict.fromkeys(resources, 1.0)}

    head = "node:__internal_head__"
    nodes = [node("w", "CPU"), node("old", head, alive=False), node("h", "CPU", head)]

    assert head_node_id(nodes) == "h"
    assert head_node_id(nodes[:2]) == ""
