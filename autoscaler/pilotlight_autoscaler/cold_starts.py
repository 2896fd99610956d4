"""What cold starts have taken, by the tier that the weights came from."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from pilotlight_autoscaler.snapshot import Tier

SAMPLES = 32  # per tier; the newest decide
HALF_LIFE_STARTS = 100  # of the mean, which the guard reckons with: see `mean_s`
_KEPT: float = 2 ** (-1 / HALF_LIFE_STARTS)


class ColdStarts:
    """The newest measured cold starts of one model."""

    __slots__ = ("_means", "_ordered", "_quantiles", "_samples", "added", "latest", "nbytes")

    def __init__(self) -> None:
        self._samples: dict[Tier, deque[float]] = {}
        self._ordered: dict[Tier, list[float]] = {}  # the same, the shortest first
        self._quantiles: dict[Tier, tuple[float, float]] = {}
        self._means: dict[Tier, tuple[float, float]] = {}  # the weight of all, their mean
        self.added = 0  # in this process: says whether anything is new
        self.latest: Tier | None = None  # the next start is thought to come from there too
        self.nbytes = 0  # of the weights that they are of; 0: not known

    def add(self, tier: Tier, seconds: float) -> None:
        if tier not in self._samples:
            self._samples[tier], self._ordered[tier] = deque(), []
        samples, ordered = self._samples[tier], self._ordered[tier]
        if len(samples) == SAMPLES:
            del ordered[bisect_left(ordered, samples.popleft())]
        samples.append(seconds)
        insort(ordered, seconds)
        weight, mean_s = self._means.get(tier, (0.0, 0.0))
        weight = weight * _KEPT + 1
        self._means[tier] = (weight, mean_s + (seconds - mean_s) / weight)
        self._measure(tier)
        self.latest = tier
        self.added += 1

    def become(self, nbytes: int) -> None:
        """The model has weights of so many bytes from now on.

        What others took says how long these take at their rate: one start's worth of knowledge per
        tier, which the first ones that are measured soon outvote.
        """
        if nbytes == self.nbytes:
            return
        known, self.nbytes = self.nbytes, nbytes
        if not known or not nbytes:
            return
        for tier in self._samples:
            guess_s = self._quantiles[tier][0] * nbytes / known
            self._samples[tier], self._ordered[tier] = deque([guess_s]), [guess_s]
            self._means[tier] = (1.0, guess_s)
            self._measure(tier)

    def typical_s(self, tier: Tier | None = None) -> float | None:
        """Median from *tier*, or from the tier of the latest start; None if never measured."""
        found = self._quantiles.get(tier or self.latest or Tier.REMOTE)
        return None if found is None else found[0]

    def mean_s(self) -> float | None:
        """Mean from the tier of the latest start: what one is expected to cost.

        Over a longer while than the quantiles: a fallback of w k L' costs (1 + 2 w k) / (1 + w k),
        2 - 1 / (1 + w k), times the optimum if L' is L, and about |L' - L| / L more if it is not.
        At w k = 30 only 3 % are left to 2. Loads that vary by 15 % leave 2.1 % of error on average
        to a mean of 32, and 0.7 % to this one of 288 in effect.
        """
        found = self._means.get(self.latest or Tier.REMOTE)
        return None if found is None else found[1]

    def slow_s(self, tier: Tier | None = None) -> float | None:
        """What nine of ten were faster than."""
        found = self._quantiles.get(tier or self.latest or Tier.REMOTE)
        return None if found is None else found[1]

    def _measure(self, tier: Tier) -> None:
        ordered = self._ordered[tier]
        last = len(ordered) - 1
        # Of an even number the middle of the two: the lower one is 2 % short of the median.
        middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
        self._quantiles[tier] = (middle, ordered[round(0.9 * last)])

    def dump(self) -> dict[Tier, list[float]]:
        return {tier: list(samples) for tier, samples in self._samples.items()}

    def dump_means(self) -> dict[Tier, tuple[float, float]]:
        """By tier, the weight of all starts, the newest of which weighs 1, and their mean."""
        return dict(self._means)

    @classmethod
    def load(
        cls,
        samples: dict[Tier, list[float]],
        latest: Tier | None,
        means: dict[Tier, tuple[float, float]],
        nbytes: int = 0,
    ) -> ColdStarts:
        """A tier without a mean has that of its samples."""
        starts = cls()
        for tier, each in samples.items():
            if not each:
                continue
            starts._samples[tier], starts._ordered[tier] = deque(each), sorted(each)
            starts._measure(tier)
            starts._means[tier] = means.get(tier, (float(len(each)), sum(each) / len(each)))
        starts.latest, starts.nbytes = latest, nbytes
        return starts
