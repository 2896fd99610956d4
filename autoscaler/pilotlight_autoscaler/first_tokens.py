"""What cold starts took until the first token, as their requests saw them, by tier."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_autoscaler.snapshot import Tier

SAMPLES = 64  # per tier; the newest decide
MAX_SPANS = 16
_DIGITS = 6  # microseconds
# Of each span, whose median is told: the first start after a bake takes several times the usual
# (0.63 GB: 547 ms of prefill, then 65 to 89), which a mean would show for long.
SPAN_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """Cold starts that were seen: how many, and how the newest of them went."""

    count: int
    seconds: Quantiles
    spans: Mapping[str, float] = field(default_factory=dict)  # typical seconds by name


class FirstTokens:
    """The cold starts of one revision of a model; another one begins anew.

    Unlike ``ColdStarts``, which counts from the order until the weights are there, these are whole:
    from the request's arrival to its first token.
    """

    __slots__ = ("_all", "_counts", "_samples", "_seen", "_spans", "revision_id")

    def __init__(self, revision_id: str = "") -> None:
        self.revision_id = revision_id
        self._counts: dict[Tier, int] = {}
        self._samples: dict[Tier, deque[float]] = {}
        self._spans: dict[Tier, dict[str, deque[float]]] = {}
        self._seen: dict[Tier, Seen] = {}
        self._all: Seen | None = None

    def add(self, tier: Tier, seconds: float, spans: Mapping[str, float]) -> None:
        """One cold start; *spans* are the seconds of its parts by name."""
        self._counts[tier] = self._counts.get(tier, 0) + 1
        # Of 1,000 models with 64 each, saved as JSON: digits are what writing them down costs.
        kept_s = round(seconds, _DIGITS)
        self._samples.setdefault(tier, deque(maxlen=SAMPLES)).append(kept_s)
        kept = self._spans.setdefault(tier, {})
        for name, span_s in spans.items():
            if name in kept or len(kept) < MAX_SPANS:
                kept.setdefault(name, deque(maxlen=SPAN_SAMPLES)).append(round(span_s, _DIGITS))
        self._measure(tier)

    def by_tier(self) -> Mapping[Tier, Seen]:
        return self._seen

    @property
    def all(self) -> Seen | None:
        """Whatever the tier; None before the first one."""
        return self._all

    def _measure(self, tier: Tier) -> None:
        quantiles = Quantiles.of(self._samples[tier])
        spans = {name: median(newest) for name, newest in self._spans[tier].items()}
        self._seen[tier] = Seen(self._counts[tier], quantiles, spans)
        together = [seconds for samples in self._samples.values() for seconds in samples]
        self._all = Seen(sum(self._counts.values()), Quantiles.of(together))

    def dump(self) -> dict[Tier, tuple[int, list[float], dict[str, list[float]]]]:
        return {
            tier: (
                self._counts[tier],
                list(samples),
                {name: list(newest) for name, newest in self._spans[tier].items()},
            )
            for tier, samples in self._samples.items()
        }

    @classmethod
    def load(
        cls, revision_id: str, tiers: Mapping[Tier, tuple[int, list[float], dict[str, list[float]]]]
    ) -> FirstTokens:
        found = cls(revision_id)
        for tier, (count, samples, spans) in tiers.items():
            if samples:
                found._counts[tier] = max(count, len(samples))
                found._samples[tier] = deque(samples, maxlen=SAMPLES)
                found._spans[tier] = {
                    name: deque(newest, maxlen=SPAN_SAMPLES)
                    for name, newest in spans.items()
                    if newest
                }
                found._measure(tier)
        return found
