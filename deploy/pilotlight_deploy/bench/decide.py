"""What a decision costs: 1,000 models on 100 full workers; one model has changed, or all have."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

from pilotlight_autoscaler import (
    Autoscaler,
    AutoscalingConfig,
    Decision,
    ModelSnapshot,
    Phase,
    PoolConfig,
    ReplicaSnapshot,
    Tier,
    WorkerSnapshot,
)

GAPS = 60  # that each model has behind it: its windows and its index are worked out from them
_START_S = 1e6


@dataclass(frozen=True, slots=True)
class DecideCost:
    """Medians over *rounds*; the first two in milliseconds, the last in microseconds."""

    models: int
    workers: int
    rounds: int
    incremental_ms: float  # a queue at a model at zero: one replica is evicted for it
    full_ms: float  # every model has changed
    quiet_us: float  # a request comes and goes at a warm model: two changes, two decisions


class Bench:
    """A cluster whose every seat is taken by an idle replica, and as many models at zero again."""

    def __init__(self, models: int, workers: int) -> None:
        self.now_s = _START_S
        self.autoscaler = Autoscaler(PoolConfig(max_workers=workers))
        per_worker = models // 2 // workers
        config = AutoscalingConfig()
        self.replicas: dict[str, tuple[str, ReplicaSnapshot]] = {}  # by model
        for n in range(models):
            name = f"m{n:04}"
            model = ModelSnapshot(name, f"{name}-1", 10**9, config)
            self.autoscaler.update_model(model)
            self.autoscaler.cold_started(name, Tier.DISK, 1.0 + n % 17)
            self._live_through(name, n)
        for n in range(workers):
            held = tuple(self._replica(f"m{n * per_worker + k:04}") for k in range(per_worker))
            worker_id = f"w{n:03}"
            self.autoscaler.update_worker(
                WorkerSnapshot(worker_id, "node", per_worker * 10**9, per_worker, held)
            )
            for each in held:
                self.replicas[each.model] = (worker_id, each)
        self.at_zero = [f"m{n:04}" for n in range(workers * per_worker, models)]
        self.autoscaler.decide(self.now_s)

    def _live_through(self, name: str, n: int) -> None:
        at_s = _START_S - 1e5
        for gap in range(GAPS):
            self.autoscaler.arrived(name, at_s)
            self.autoscaler.finished(name, at_s + 1, left=0)
            at_s += 20 + (n * 7919 + gap * 104729) % 1000
        self.autoscaler.arrived(name, _START_S - 10)
        self.autoscaler.finished(name, _START_S - 5, left=0)

    def _replica(self, name: str) -> ReplicaSnapshot:
        since_s = self.now_s - 5
        return ReplicaSnapshot(name, f"{name}-1", 10**9, Phase.READY, since_s - 60, 0, since_s)

    def one_changed(self) -> float:
        """Seconds of a decision that evicts one replica for a queue; as full after."""
        self.now_s += 0.01
        name = self.at_zero.pop(0)
        self.autoscaler.arrived(name, self.now_s)
        self.autoscaler.update_queue(name, 1, self.now_s - 100)
        decision, seconds = self._decide()
        (attach,) = decision.attach
        victim = next(m for m, (_, r) in self.replicas.items() if r.revision_id in attach.evict)
        del self.replicas[victim]
        held = [r for w, r in self.replicas.values() if w == attach.worker_id]
        new = self._replica(name)
        self.replicas[name] = (attach.worker_id, new)
        held.append(new)
        self.autoscaler.update_worker(
            WorkerSnapshot(attach.worker_id, "node", len(held) * 10**9, len(held), tuple(held))
        )
        self.autoscaler.update_queue(name, 0, None)
        self.autoscaler.finished(name, self.now_s, left=0)
        self.at_zero.append(victim)
        self.autoscaler.decide(self.now_s)
        return seconds

    def all_changed(self) -> float:
        """Seconds of a decision after a request has begun, or ended, in every replica."""
        self.now_s += 0.01
        for name, (worker_id, old) in self.replicas.items():
            busy = old.ongoing == 0
            new = replace(old, ongoing=int(busy), idle_since_s=None if busy else self.now_s)
            self.replicas[name] = (worker_id, new)
            self.autoscaler.update_replica(worker_id, new)
        for name in self.at_zero:
            self.autoscaler.update_queue(name, 0, None)
        return self._decide()[1]

    def quiet(self) -> float:
        """Seconds of all calls for one request at a warm model."""
        self.now_s += 0.01
        name = next(iter(self.replicas))
        worker_id, old = self.replicas.pop(name)
        self.replicas[name] = (worker_id, old)
        begin = time.perf_counter()
        self.autoscaler.arrived(name, self.now_s)
        self.autoscaler.update_load(worker_id, old.revision_id, 1, None)
        self.autoscaler.decide(self.now_s)
        self.autoscaler.finished(name, self.now_s, left=0, service_s=1.0)
        self.autoscaler.update_load(worker_id, old.revision_id, 0, self.now_s)
        self.autoscaler.decide(self.now_s)
        seconds = time.perf_counter() - begin
        self.replicas[name] = (worker_id, replace(old, idle_since_s=self.now_s))
        return seconds

    def _decide(self) -> tuple[Decision, float]:
        begin = time.perf_counter()
        decision = self.autoscaler.decide(self.now_s)
        return decision, time.perf_counter() - begin


def measure_decide(models: int = 1000, workers: int = 100, rounds: int = 50) -> DecideCost:
    """Medians of *rounds*. Even *rounds*, so that no replica is left busy."""
    bench = Bench(models, workers)
    quiet = [bench.quiet() for _ in range(10 * rounds)]
    incremental = [bench.one_changed() for _ in range(rounds)]
    full = [bench.all_changed() for _ in range(rounds)]
    return DecideCost(
        models,
        workers,
        rounds,
        incremental_ms=1e3 * median(incremental),
        full_ms=1e3 * median(full),
        quiet_us=1e6 * median(quiet),
    )
