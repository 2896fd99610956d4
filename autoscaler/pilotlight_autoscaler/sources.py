"""Where weights come from: the tier of each revision on each node, and what it carries."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler.snapshot import NodeSnapshot, Tier

# Of tiers that nobody has measured: a slow link, a plain SSD, memory copied by one core.
DEFAULT_BYTES_PER_S = {Tier.HOST: 8e9, Tier.DISK: 1e9, Tier.PEER: 1e9, Tier.REMOTE: 1e8}
_REMOTE = Tier.REMOTE  # a name: see snapshot


class Sources:
    """The nodes as told. ``least_s`` lets a search end at the first worker that reaches it."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeSnapshot] = {}
        self._fastest = dict(DEFAULT_BYTES_PER_S)  # of all nodes, by tier
        self._near: dict[str, dict[Tier, int]] = {}  # by revision: nodes that list it in a tier

    def update(self, node: NodeSnapshot) -> None:
        old = self._nodes.get(node.node_id)
        self._nodes[node.node_id] = node
        self._count(old, node)
        if old is None or old.bytes_per_s != node.bytes_per_s:
            self._measure()

    def remove(self, node_id: str) -> None:
        old = self._nodes.pop(node_id, None)
        if old is not None:
            self._count(old, None)
            self._measure()

    def load_s(self, node_id: str, revision_id: str, nbytes: int) -> float:
        """Seconds that the bytes take to a worker there; 0 where nothing is known of nodes."""
        if not self._nodes:
            return 0.0
        node = self._nodes.get(node_id)
        if node is None:
            return nbytes / DEFAULT_BYTES_PER_S[_REMOTE]
        tier = node.tiers.get(revision_id, _REMOTE)
        return transfer_s(nbytes, node.bytes_per_s, tier)

    def least_s(self, revision_id: str, nbytes: int) -> float:
        """No worker has them sooner."""
        if not self._nodes:
            return 0.0
        fastest = self._fastest
        best = fastest[_REMOTE]
        for tier in self._near.get(revision_id, ()):
            best = max(best, fastest[tier])
        return nbytes / best

    def _count(self, old: NodeSnapshot | None, new: NodeSnapshot | None) -> None:
        before = old.tiers if old is not None else {}
        after = new.tiers if new is not None else {}
        for revision_id, tier in before.items():
            if after.get(revision_id) is not tier:
                nodes = self._near[revision_id]
                nodes[tier] -= 1
                if not nodes[tier]:
                    del nodes[tier]
                if not nodes:
                    del self._near[revision_id]
        for revision_id, tier in after.items():
            if before.get(revision_id) is not tier:
                nodes = self._near.setdefault(revision_id, {})
                nodes[tier] = nodes.get(tier, 0) + 1

    def _measure(self) -> None:
        self._fastest = {
            tier: max((_rate(node, tier) for node in self._nodes.values()), default=rate)
            for tier, rate in DEFAULT_BYTES_PER_S.items()
        }
        # A worker whose node nobody has told of counts as remote.
        rate = DEFAULT_BYTES_PER_S[_REMOTE]
        self._fastest[_REMOTE] = max(rate, self._fastest[_REMOTE])


def transfer_s(nbytes: float, bytes_per_s: Mapping[Tier, float], tier: Tier) -> float:
    """Seconds that the bytes take from *tier*, at its measured rate or else its default."""
    return nbytes / (bytes_per_s.get(tier) or DEFAULT_BYTES_PER_S[tier])


def _rate(node: NodeSnapshot, tier: Tier) -> float:
    return node.bytes_per_s.get(tier) or DEFAULT_BYTES_PER_S[tier]
