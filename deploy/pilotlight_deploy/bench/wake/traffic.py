"""Who asks for which model when: independent of how fast the answers come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a schedule; seconds since its begin."""

    at_s: float
    model: str


def poisson_zipf(
    models: Sequence[str], *, seconds: float, per_s: float, exponent: float, seed: int
) -> tuple[Arrival, ...]:
    """Poisson arrivals; the k-th of the models, in an order drawn, too, has weight k^-exponent."""
    random = Random(seed)
    ranked = random.sample(models, len(models))
    weights = list(accumulate(rank**-exponent for rank in range(1, len(ranked) + 1)))
    return tuple(
        Arrival(at_s, random.choices(ranked, cum_weights=weights)[0])
        for at_s in _poisson(random, seconds, per_s)
    )


def _poisson(random: Random, seconds: float, per_s: float) -> Iterator[float]:
    at_s = random.expovariate(per_s)
    while at_s < seconds:
        yield at_s
        at_s += random.expovariate(per_s)
