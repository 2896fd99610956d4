"""What is known before a model is deployed: its bytes, the links, and how starts went so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilotlight_autoscaler.checks import require
from pilotlight_autoscaler.first_tokens import Seen
from pilotlight_autoscaler.snapshot import Tier


@dataclass(frozen=True, slots=True)
class Weights:
    """What of a model decides how long its start takes."""

    nbytes: int  # that a worker maps
    compute_nbytes: int  # the same without quantization: what a first forward works through
    source_nbytes: int  # that would be fetched
    layers: int = 1  # parts whose transfer and computation overlap

    def check(self) -> None:
        """Raises InputError."""
        require(self.nbytes, "nbytes of the weights")
        require(self.compute_nbytes, "compute_nbytes of the weights")
        require(self.source_nbytes, "source_nbytes of the weights")
        require(self.layers - 1, "layers of the weights, less one,")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another model on the same platform, and its cold starts."""

    compute_nbytes: int
    seen: Mapping[Tier, Seen]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Measured things only: what is missing here is assumed, and said to be."""

    bytes_per_s: Mapping[Tier, float] = field(default_factory=dict)  # of links
    own: Mapping[Tier, Seen] = field(default_factory=dict)  # cold starts of these very weights
    others: tuple[Neighbour, ...] = ()

    def of_other_weights(self, compute_nbytes: int) -> Knowledge:
        """The same for a quantization that has not run yet: what is known becomes a neighbour's."""
        if not self.own:
            return self
        return replace(self, own={}, others=(*self.others, Neighbour(compute_nbytes, self.own)))
