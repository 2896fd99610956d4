"""How long a model rests between requests: a decayed histogram with logarithmic bins."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

# Under a second, then up to two days, each bin 8.9 % wider than the one before; and more. A
# forecast holds a replica for a bin at least, half of it idle on average: a steady rhythm costs 4 %
# of its period (9 % in 72 bins: 1.8 % more of all costs). Planning a gap takes a step per bin.
BINS = 143
HORIZON_S = 2 * 86400.0
EDGES_S = (0.0, *(HORIZON_S ** (n / (BINS - 1)) for n in range(BINS)))
WIDTHS_S = tuple(upper - lower for lower, upper in pairwise(EDGES_S))
HALF_LIFE_GAPS = 100
PRIOR_GAPS = 2.0  # as if seen before anything was: spread over the bins, a fifth beyond them
_PRIOR_IN_RANGE = 0.8
_PRIOR = (*(PRIOR_GAPS * _PRIOR_IN_RANGE / BINS for _ in range(BINS)), PRIOR_GAPS * 0.2)
_GROWTH: float = 2 ** (1 / HALF_LIFE_GAPS)
_RESCALE_AT = 1e9


class GapHistogram:
    """Gaps seen, the newest weighing most. Adding one costs the same however many there were."""

    __slots__ = ("_increment", "above", "counts", "observed")

    def __init__(self) -> None:
        # By bin, in units of the newest gap's weight, `_increment`: most models rest in a few bins.
        self.counts: dict[int, float] = {}
        self._increment = 1.0
        self.observed = 0  # gaps in all, not decayed
        self.above = 0  # from this bin on, those within two days hold only the prior

    def add(self, gap_s: float) -> None:
        # Instead of shrinking all the old ones, each new one weighs more.
        self._increment *= _GROWTH
        number, counts = bin_of(gap_s), self.counts
        counts[number] = counts.get(number, 0.0) + self._increment
        if self.above <= number < BINS:
            self.above = number + 1
        self.observed += 1
        if self._increment > _RESCALE_AT:
            self.counts = {n: count / self._increment for n, count in self.counts.items()}
            self._increment = 1.0

    def masses(self) -> list[float]:
        """Weight of each bin and of what lies beyond, with the prior; the newest gap weighs 1."""
        unit = 1 / self._increment
        found = list(_PRIOR)
        for n, count in self.counts.items():
            found[n] += count * unit
        return found

    def dump(self) -> tuple[int, float, dict[int, float]]:
        """Gaps observed, the unit of the counts, and the counts."""
        return (
            self.observed,
            self._increment,
            dict(sorted(self.counts.items())),
        )

    @classmethod
    def load(cls, observed: int, unit: float, counts: dict[int, float]) -> GapHistogram:
        histogram = cls()
        histogram.observed, histogram._increment = observed, unit
        histogram.counts = dict(counts)
        histogram.above = max((n + 1 for n in counts if n < BINS), default=0)
        return histogram


def bin_of(gap_s: float) -> int:
    """The bin of a gap; ``BINS`` for one beyond two days."""
    return bisect_right(EDGES_S, gap_s) - 1
