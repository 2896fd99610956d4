"""How a rate moves through the week, and the way back from its integral to time."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from random import Random

_HOURS = 168
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class WeekProfile:
    """A rate per hour of the week, relative to its mean."""

    rates: tuple[float, ...]

    @property
    def roughness(self) -> float:
        """Mean of 1/rate times the mean rate: by how much it stretches squared gaps; 1 if flat."""
        return sum(1 / rate for rate in self.rates) / _HOURS

    def times_s(self, shares: list[float], horizon_s: float) -> list[float]:
        """When these shares (ascending, 0 to 1) of the horizon's requests have come."""
        hours = math.ceil(horizon_s / _HOUR_S)
        lengths_s = [min(_HOUR_S, horizon_s - hour * _HOUR_S) for hour in range(hours)]
        mass = [self.rates[hour % _HOURS] * length for hour, length in enumerate(lengths_s)]
        below = [0.0, *accumulate(mass)]
        times_s = []
        for share in shares:
            target = share * below[-1]
            hour = min(bisect_right(below, target) - 1, hours - 1)
            part = (target - below[hour]) / mass[hour]
            times_s.append((hour + part) * _HOUR_S if part < 1 else (hour + 1) * _HOUR_S)
        return times_s


FLAT = WeekProfile((1.0,) * _HOURS)


def draw_profile(random: Random) -> WeekProfile:
    """Three in ten are flat; the others swing by day, and most of them rest at weekends."""
    if random.random() < 0.3:
        return FLAT
    swing, peak_h = random.uniform(0.4, 0.92), random.uniform(0, 24)
    weekend = random.choices((1.0, 0.6, 0.25), (0.4, 0.3, 0.3))[0]
    rates = [
        (1 + swing * math.cos((hour - peak_h) / 24 * math.tau)) * (weekend if hour >= 120 else 1.0)
        for hour in range(_HOURS)
    ]
    mean = sum(rates) / _HOURS
    return WeekProfile(tuple(rate / mean for rate in rates))
