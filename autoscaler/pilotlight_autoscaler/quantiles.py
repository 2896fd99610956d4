"""Three points of a distribution of times, as users ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds that 50, 95 and 99 of 100 stay within."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Quantiles:
        """By nearest rank: each is a time that was seen. Raises ValueError without samples."""
        ordered = sorted(samples)
        if not ordered:
            raise ValueError("no samples")

        def rank(share: float) -> float:
            return ordered[ceil(share * len(ordered)) - 1]

        return cls(rank(0.5), rank(0.95), rank(0.99))
