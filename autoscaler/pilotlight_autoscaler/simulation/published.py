"""Published shapes of serverless and LLM traffic, as tables to draw from and to check against."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """A cumulative distribution through (value, share at or below) points; two at a value: a jump.

    Between points the value is interpolated, by its logarithm if *log*.
    """

    points: tuple[tuple[float, float], ...]
    log: bool

    def quantile(self, share: float) -> float:
        """The value that *share* (0 to 1) of the population is at or below."""
        shares = [point[1] for point in self.points]
        at = bisect_left(shares, share)
        if at == 0:
            return self.points[0][0]
        if at == len(shares):
            return self.points[-1][0]
        (low, below), (high, above) = self.points[at - 1], self.points[at]
        part = (share - below) / (above - below)
        if self.log and low > 0:
            return low * math.pow(high / low, part)
        return low + (high - low) * part

    def distance(self, sample: Sequence[float]) -> float:
        """Kolmogorov-Smirnov: the largest difference to *sample*'s, at the points of the table."""
        ordered = sorted(sample)
        worst = 0.0
        last = dict(self.points)  # the upper end of a jump
        for value, share in last.items():
            found = bisect_right(ordered, value * (1 + 1e-9) + 1e-9) / len(ordered)
            worst = max(worst, abs(found - share))
        return worst


# Azure Functions 2019 (Shahrad et al., ATC'20; AzurePublicDataset): applications by mean daily
# invocations over 14 days. The jumps at 288 and 1440 a day are timers of 5 minutes and 1 minute.
AZURE_DAILY_REQUESTS = Distribution(
    (
        (1 / 14, 0.04),
        (1.0, 0.20),
        (2.0, 0.27),
        (10.0, 0.38),
        (24.0, 0.45),
        (48.0, 0.50),
        (96.0, 0.55),
        (288.0, 0.59),
        (288.0, 0.64),
        (600.0, 0.72),
        (1440.0, 0.78),
        (1440.0, 0.81),
        (1e4, 0.92),
        (86_400.0, 0.975),
        (1e6, 0.99),
        (1e7, 1.0),
    ),
    log=True,
)
# The same study: coefficient of variation of the times between invocations; 0 is a timer.
AZURE_INTERARRIVAL_CV = Distribution(
    (
        (0.0, 0.0),
        (0.0, 0.20),
        (0.2, 0.35),
        (0.5, 0.46),
        (1.0, 0.57),
        (2.0, 0.72),
        (4.0, 0.86),
        (6.0, 0.90),
        (8.0, 0.93),
        (10.0, 0.95),
        (20.0, 1.0),
    ),
    log=False,
)
TIMER_PERIODS_S = (60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Lognormal lengths of one kind of use: mu and sigma of input and output tokens."""

    input_mu: float
    input_sigma: float
    output_mu: float
    output_sigma: float

    @property
    def mean_output(self) -> float:
        return math.exp(self.output_mu + self.output_sigma**2 / 2)


# Azure LLM inference traces 2023, fitted.
CHAT = Tokens(6.64, 0.98, 5.03, 0.85)
CODE = Tokens(7.00, 1.35, 2.86, 0.81)
MAX_INPUT_TOKENS = 32_768
MAX_OUTPUT_TOKENS = 4_096
