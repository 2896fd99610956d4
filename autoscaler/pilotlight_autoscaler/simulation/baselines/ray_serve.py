"""Ray Serve 2.60's default autoscaling (ray/serve/autoscaling_policy.py), with its metrics' delays.

A handle records its load every min(0.2 · look-back, interval) and pushes the series every interval;
the controller averages the last look-back, asks for one replica from zero, and waits upscale and
downscale delays before anything else; N goes to 0 through 1.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from dataclasses import dataclass

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.simulation.baselines.mirror import Known, Mirror, idle


@dataclass(frozen=True, slots=True)
class RayConfig:
    """Ray's names, in seconds."""

    look_back_period_s: float
    metrics_interval_s: float
    upscale_delay_s: float
    downscale_delay_s: float


RAY_DEFAULTS = RayConfig(30.0, 10.0, 30.0, 600.0)
RAY_TUNED = RayConfig(1.0, 0.2, 0.0, 60.0)


@dataclass(slots=True, eq=False)
class _Series:
    """What the controller knows of one deployment."""

    records: deque[tuple[float, int]]
    record_s: float  # next times
    push_s: float
    seen: float = 0.0  # mean load at the last push
    above_since_s: float | None = None
    below_since_s: float | None = None


class RayServe(Mirror):
    """One deployment per model. While nothing runs and all is settled, nothing is computed."""

    def __init__(self, config: RayConfig) -> None:
        super().__init__()
        self._config = config
        self._record_every_s = min(0.2 * config.look_back_period_s, config.metrics_interval_s)
        self._series: dict[str, _Series] = {}

    def arrived(self, model: str, at_s: float, requests: int = 1) -> None:
        self._caught_up(self.models[model], at_s)  # what was recorded before is not of this load
        super().arrived(model, at_s, requests)
        self._changed[model] = None

    def finished(self, model: str, at_s: float, left: int, service_s: float | None = None) -> None:
        self._caught_up(self.models[model], at_s)
        super().finished(model, at_s, left, service_s)

    def consider(self, known: Known, now_s: float) -> None:
        series = self._caught_up(known, now_s)
        config, live = known.snapshot.config, len(known.replicas)
        wanted = math.ceil(series.seen / config.target - 1e-9)
        wanted = max(config.min_replicas, min(config.max_replicas, wanted))
        if live == 0 and wanted > 0:
            self.order_attach(known, now_s, Rule.FROM_ZERO, evict=False)
        elif wanted > live:
            self._up(known, series, wanted - live, now_s)
        elif wanted < live:
            self._down(known, series, max(wanted, 1 if live > 1 else 0), now_s)
        else:
            series.above_since_s = series.below_since_s = None
        if known.unfinished or series.seen or wanted != live:
            self.look_again(known, self._next_s(series, wanted, len(known.replicas), now_s))

    def _up(self, known: Known, series: _Series, more: int, now_s: float) -> None:
        series.below_since_s = None
        if series.above_since_s is None:
            series.above_since_s = now_s
        if now_s - series.above_since_s >= self._config.upscale_delay_s - 1e-9:
            for _ in range(more):
                if not self.order_attach(known, now_s, Rule.LOAD, evict=False):
                    break
            series.above_since_s = None

    def _down(self, known: Known, series: _Series, to: int, now_s: float) -> None:
        series.above_since_s = None
        if series.below_since_s is None:
            series.below_since_s = now_s
        if now_s - series.below_since_s >= self._config.downscale_delay_s - 1e-9:
            for worker_id, _ in idle(known.replicas.items())[: len(known.replicas) - to]:
                self.order_detach(known, worker_id)
            series.below_since_s = None

    def _next_s(self, series: _Series, wanted: int, live: int, now_s: float) -> float:
        """The next push while metrics move; else when a delay is over."""
        if series.below_since_s is not None and not series.seen:
            due_s = series.below_since_s + self._config.downscale_delay_s
            if due_s > now_s:
                return due_s
        return series.push_s

    def _caught_up(self, known: Known, now_s: float) -> _Series:
        """Records and pushes up to now, of the load since the last call."""
        series = self._series.get(known.name)
        every_s, push_every_s = self._record_every_s, self._config.metrics_interval_s
        if series is None:
            # Deployments do not tick in step: each has its own phase.
            phase = zlib.crc32(known.name.encode()) / 2**32
            series = _Series(deque(), phase * every_s, phase * push_every_s)
            self._series[known.name] = series
        skip = math.floor((now_s - self._config.look_back_period_s - series.record_s) / every_s)
        series.record_s += max(0, skip) * every_s
        skip = math.floor((now_s - series.push_s) / push_every_s)
        series.push_s += max(0, skip) * push_every_s
        while series.record_s < now_s:
            series.records.append((series.record_s, known.unfinished))
            series.record_s += every_s
        while series.push_s <= now_s:
            oldest_s = series.push_s - self._config.look_back_period_s
            while series.records and series.records[0][0] < oldest_s:
                series.records.popleft()
            loads = [load for at_s, load in series.records if at_s <= series.push_s]
            series.seen = sum(loads) / len(loads) if loads else 0.0
            series.push_s += push_every_s
        return series
