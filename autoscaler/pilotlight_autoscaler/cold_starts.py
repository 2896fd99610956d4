"""What cold starts have taken, by the tier that the weights came from."""

from __future__ import annotations

from collections import deque

from pilotlight_autoscaler.snapshot import Tier

SAMPLES = 32  # per tier; the newest decide, and the error of their mean stays below 3 %


class ColdStarts:
    """The newest measured cold starts of one model."""

    __slots__ = ("_quantiles", "_samples", "added", "latest")

    def __init__(self) -> None:
        self._samples: dict[Tier, deque[float]] = {}
        self._quantiles: dict[Tier, tuple[float, float]] = {}
        self.added = 0  # in this process: says whether anything is new
        self.latest: Tier | None = None  # the next start is thought to come from there too

    def add(self, tier: Tier, seconds: float) -> None:
        samples = self._samples.setdefault(tier, deque(maxlen=SAMPLES))
        samples.append(seconds)
        self._measure(tier)
        self.latest = tier
        self.added += 1

    def typical_s(self, tier: Tier | None = None) -> float | None:
        """Median from *tier*, or from the tier of the latest start; None if never measured."""
        found = self._quantiles.get(tier or self.latest or Tier.REMOTE)
        return None if found is None else found[0]

    def mean_s(self) -> float | None:
        """Mean from the tier of the latest start: what one is expected to cost."""
        samples = self._samples.get(self.latest or Tier.REMOTE)
        return sum(samples) / len(samples) if samples else None

    def slow_s(self, tier: Tier | None = None) -> float | None:
        """What nine of ten were faster than."""
        found = self._quantiles.get(tier or self.latest or Tier.REMOTE)
        return None if found is None else found[1]

    def _measure(self, tier: Tier) -> None:
        ordered = sorted(self._samples[tier])
        last = len(ordered) - 1
        # Of an even number the middle of the two: the lower one is 2 % short of the median.
        middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
        self._quantiles[tier] = (middle, ordered[round(0.9 * last)])

    def dump(self) -> dict[Tier, list[float]]:
        return {tier: list(samples) for tier, samples in self._samples.items()}

    @classmethod
    def load(cls, samples: dict[Tier, list[float]], latest: Tier | None) -> ColdStarts:
        starts = cls()
        starts._samples = {
            tier: deque(each, maxlen=SAMPLES) for tier, each in samples.items() if each
        }
        for tier in starts._samples:
            starts._measure(tier)
        starts.latest = latest
        return starts
