"""Published keep-alive and eviction rules, one class each."""

from __future__ import annotations

import math
from bisect import bisect_left

from pilotlight_autoscaler.simulation.baselines.keep_alive import FOREVER, Window
from pilotlight_autoscaler.simulation.baselines.mirror import Known
from pilotlight_autoscaler.simulation.optimum import waits_s
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace


class Fixed:
    """The same keep-alive for all; infinite: only evictions end it."""

    def __init__(self, keep_s: float) -> None:
        self._windows = FOREVER if math.isinf(keep_s) else ((0.0, keep_s),)

    def windows(self, known: Known) -> tuple[Window, ...]:
        return self._windows

    def gap(self, known: Known, seconds: float) -> None:
        pass


class SkiRental:
    """Keep for what a cold start costs, L (1 + w): never more than twice the optimum."""

    def __init__(self, cold_start_weight: float) -> None:
        self._factor = 1 + cold_start_weight

    def windows(self, known: Known) -> tuple[Window, ...]:
        return ((0.0, known.cold_start_s * self._factor),)

    def gap(self, known: Known, seconds: float) -> None:
        pass


class HybridHistogram:
    """Shahrad et al., ATC'20: gaps in minutes up to 4 h; resident from the 5th to the 99th
    percentile (-10 %, +10 %), 4 h while the histogram says nothing, the last gap ± 15 % when most
    are longer (there: ARIMA).
    """

    _BINS = 240
    _BIN_S = 60.0
    _REPRESENTATIVE_CV = 2.0

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._beyond: dict[str, int] = {}
        self._last_s: dict[str, float] = {}
        self._windows: dict[str, tuple[Window, ...]] = {}

    def gap(self, known: Known, seconds: float) -> None:
        counts = self._counts.setdefault(known.name, [0] * self._BINS)
        at = int(seconds / self._BIN_S)
        if at < self._BINS:
            counts[at] += 1
        else:
            self._beyond[known.name] = self._beyond.get(known.name, 0) + 1
        self._last_s[known.name] = seconds
        self._windows.pop(known.name, None)

    def windows(self, known: Known) -> tuple[Window, ...]:
        found = self._windows.get(known.name)
        if found is None:
            found = self._windows[known.name] = (self._window(known.name),)
        return found

    def _window(self, name: str) -> Window:
        whole = (0.0, self._BINS * self._BIN_S)
        counts = self._counts.get(name)
        if counts is None:
            return whole
        inside, beyond = sum(counts), self._beyond.get(name, 0)
        if beyond > inside:
            return (0.85 * self._last_s[name], 1.15 * self._last_s[name])
        mean = inside / self._BINS
        deviation = math.sqrt(sum((count - mean) ** 2 for count in counts) / self._BINS)
        if deviation < self._REPRESENTATIVE_CV * mean:
            return whole
        begin = 0.9 * self._percentile(counts, 0.05 * inside) * self._BIN_S
        end = 1.1 * (self._percentile(counts, 0.99 * inside) + 1) * self._BIN_S
        return (begin if begin >= self._BIN_S else 0.0, end)

    @staticmethod
    def _percentile(counts: list[int], mass: float) -> int:
        below = 0
        for at, count in enumerate(counts):
            below += count
            if below >= mass:
                return at
        return len(counts) - 1


class GreedyDual:
    """Fuerst and Sharma's FaasCache, ASPLOS'21: clock + frequency · cold start ÷ size."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._frequency: dict[str, int] = {}
        self._value: dict[str, float] = {}

    def used(self, known: Known, now_s: float) -> None:
        frequency = self._frequency[known.name] = self._frequency.get(known.name, 0) + 1
        # Sizes only compare with each other: in tens of gigabytes the values stay near the clock.
        size = known.snapshot.nbytes / 1e10
        self._value[known.name] = self._clock + frequency * known.cold_start_s / size

    def index(self, known: Known, now_s: float) -> float:
        return self._value.get(known.name, self._clock)

    def evicted(self, known: Known, now_s: float) -> None:
        self._clock = max(self._clock, self._value.get(known.name, self._clock))
        self._frequency[known.name] = 0


class Clairvoyant:
    """Knows each next request: keeps through a gap if that costs less than its cold start.

    It does not prewarm; the optimum of keep-alives for one replica per model.
    """

    def __init__(self, trace: Trace, cold_start_s: dict[str, float], weight: float) -> None:
        self._weight = weight
        self._arrivals_s: dict[str, list[float]] = {name: [] for name in trace.names}
        for at_us, model in zip(trace.arrival_us, trace.model, strict=True):
            self._arrivals_s[trace.names[model]].append(at_us / US_PER_S)
        self._cold_start_s = cold_start_s

    def windows(self, known: Known) -> tuple[Window, ...]:
        arrivals_s, cold_s = self._arrivals_s[known.name], self._cold_start_s[known.name]
        at = bisect_left(arrivals_s, known.last_end_s)
        if at == len(arrivals_s):
            return ((0.0, 0.0),)
        gap_s = arrivals_s[at] - known.last_end_s
        worth_s = cold_s + self._weight * waits_s(arrivals_s, at, cold_s)
        return ((0.0, gap_s + 1.0 if gap_s < worth_s else 0.0),)

    def gap(self, known: Known, seconds: float) -> None:
        pass
