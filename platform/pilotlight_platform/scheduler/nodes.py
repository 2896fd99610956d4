"""The machines under the workers: which weights are near, as far as their workers have shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pilotlight_autoscaler import NodeSnapshot, Tier
from pilotlight_platform.schemas.cluster import WorkerInfo


@dataclass(slots=True)
class _Node:
    memory_bytes: int
    bytes_per_s: Mapping[Tier, float]
    workers: set[str] = field(default_factory=set)
    disk: set[str] = field(default_factory=set)  # revisions that a worker has prepared there
    # Revisions that were attached there, the latest last: their bytes, and since when.
    attached: dict[str, tuple[int, float]] = field(default_factory=dict)
    in_memory: set[str] = field(default_factory=set)


class Nodes:
    """Known as long as they have a worker; *touched* is called with the id of one that changes.

    A prepared revision is on the node's disk, or on one that it mounts. What a worker there has
    attached with all its pages is in memory, until later ones have filled that: nobody says what
    the kernel drops, so the rest is a guess that the next attach corrects.
    """

    def __init__(self, touched: Callable[[str], None]) -> None:
        self._touched = touched
        self._nodes: dict[str, _Node] = {}

    def join(self, info: WorkerInfo) -> None:
        rates = {Tier(name): rate for name, rate in info.bytes_per_s.items() if name in _TIERS}
        node = self._nodes.get(info.node_id)
        if node is None:
            node = self._nodes[info.node_id] = _Node(info.memory_bytes, rates)
        node.memory_bytes, node.bytes_per_s = info.memory_bytes, rates
        node.workers.add(info.worker_id)
        self._touched(info.node_id)

    def lose(self, info: WorkerInfo) -> None:
        node = self._nodes.get(info.node_id)
        if node is None:
            return
        node.workers.discard(info.worker_id)
        if not node.workers:
            del self._nodes[info.node_id]
            self._touched(info.node_id)

    def prepared(self, node_id: str, revision_id: str) -> None:
        """A worker there could read the checkpoint."""
        node = self._nodes.get(node_id)
        if node is not None and revision_id not in node.disk:
            node.disk.add(revision_id)
            self._touched(node_id)

    def attached(self, node_id: str, revision_id: str, nbytes: int, since_s: float) -> None:
        """A worker there has all its pages in memory. Asked at every report: mostly known."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        known = node.attached.get(revision_id)
        if known is not None and known[1] >= since_s:
            return
        node.attached.pop(revision_id, None)
        node.attached[revision_id] = (nbytes, since_s)
        node.disk.add(revision_id)
        in_memory = _newest(node)
        if in_memory != node.in_memory:
            node.in_memory = in_memory
            self._touched(node_id)

    def forget(self, revision_id: str) -> None:
        """It is not live any more."""
        for node_id, node in self._nodes.items():
            if revision_id in node.disk:
                node.disk.discard(revision_id)
                node.attached.pop(revision_id, None)
                node.in_memory.discard(revision_id)
                self._touched(node_id)

    def snapshot(self, node_id: str) -> NodeSnapshot | None:
        """None for a node without workers."""
        node = self._nodes.get(node_id)
        if node is None:
            return None
        tiers = dict.fromkeys(node.disk, Tier.DISK) | dict.fromkeys(node.in_memory, Tier.HOST)
        return NodeSnapshot(node_id, tiers, node.bytes_per_s)

    def ids(self) -> list[str]:
        return list(self._nodes)


_TIERS = frozenset(Tier)


def _newest(node: _Node) -> set[str]:
    """As many of the latest as its memory holds."""
    found, left = set[str](), node.memory_bytes
    for revision_id, (nbytes, _) in reversed(node.attached.items()):
        left -= nbytes
        if left < 0:
            break
        found.add(revision_id)
    return found
