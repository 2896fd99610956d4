"""How many workers Ray Serve is told to run, and which ones are emptied before it is told fewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = "node:__internal_head__"  # a resource that Ray gives to that node alone


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that Serve runs."""

    worker_id: str
    node_id: str
    busy: bool  # requests run, or an attach is under way


class PoolKeeper:
    """Serve chooses whom it stops; this foresees the choice, so that those are idle by then.

    To go from n to m, the n - m workers that Serve would take leave the scheduler's picture: they
    get no new requests, their streams finish. Serve is told m only when they are all idle.
    """

    def __init__(self, head_node_id: str) -> None:
        self._head_node_id = head_node_id
        self.want: int | None = None  # of the last decision
        self.target: int | None = None  # what Serve is told
        self.leaving: frozenset[str] = frozenset()
        self.emptied: frozenset[str] = frozenset()  # those of them that may go at any moment

    def plan(self, members: Sequence[Member]) -> None:
        """Choose anew. *members*: all that run, the leaving ones too, oldest first."""
        if self.want is None:
            return
        surplus = max(0, len(members) - self.want)
        first = in_serves_order(members, self._head_node_id)[:surplus]
        emptied: list[str] = []
        for member in first:
            if member.busy:
                break  # Serve would take this one before those after it
            emptied.append(member.worker_id)
        self.leaving = frozenset(member.worker_id for member in first)
        self.emptied = frozenset(emptied)
        self.target = max(self.want, len(members) - len(emptied))


def head_node_id(nodes: Iterable[Mapping[str, Any]]) -> str:
    """The head among ``ray.nodes()``, found as Serve does; "" if none is alive."""
    heads = (each["NodeID"] for each in nodes if each["Alive"] and _HEAD in each["Resources"])
    return next(heads, "")


def in_serves_order(members: Sequence[Member], head_node_id: str) -> list[Member]:
    """Whom Serve 2.60 stops first (``_get_replicas_to_stop``).

    Those of other nodes than the head, of the node with fewest replicas, the newest. Serve counts
    all deployments' replicas; the others of ours are taken to be on the head node.
    """
    per_node = Counter(member.node_id for member in members)
    newest_first = list(reversed(members))
    return sorted(newest_first, key=lambda m: (m.node_id == head_node_id, per_node[m.node_id]))
