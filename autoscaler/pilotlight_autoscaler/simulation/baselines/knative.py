"""Knative's pod autoscaler (KPA): means over 60 s and 6 s, panic, 30 s of grace before zero.

Rules and constants of knative/serving's autoscaler; samples are taken at its tick of 2 s.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from pilotlight_autoscaler.decision import Rule
from pilotlight_autoscaler.simulation.baselines.mirror import Known, Mirror, idle

TICK_S = 2.0
STABLE_S = 60.0
PANIC_S = 6.0
PANIC_THRESHOLD = 2.0
GRACE_S = 30.0
MAX_SCALE_DOWN = 2.0


@dataclass(slots=True, eq=False)
class _Window:
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    busy_until_s: float = 0.0
    panic_since_s: float | None = None
    panic_most: int = 0


class Knative(Mirror):
    """One revision per model; the activator asks for the first pod at once."""

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, _Window] = {}

    def consider(self, known: Known, now_s: float) -> None:
        window = self._windows.setdefault(known.name, _Window())
        config, live = known.snapshot.config, len(known.replicas)
        if known.unfinished:
            window.busy_until_s = now_s
        elif live <= 1 and config.min_replicas == 0:
            self._to_zero(known, max(window.busy_until_s, known.last_end_s), now_s)
            return
        if config.max_replicas == 1 and live == 1:
            return  # no window can change anything before the last request has ended
        wanted = self._wanted(window, known, max(1, live), now_s)
        wanted = max(config.min_replicas, 1, min(config.max_replicas, wanted))
        for _ in range(wanted - live):
            rule = Rule.LOAD if live else Rule.FROM_ZERO
            if not self.order_attach(known, now_s, rule, evict=False):
                break
        for worker_id, _ in idle(known.replicas.items())[: max(0, live - wanted)]:
            self.order_detach(known, worker_id)
        self.look_again(known, now_s + TICK_S)

    def _to_zero(self, known: Known, since_s: float, now_s: float) -> None:
        due_s = since_s + STABLE_S + GRACE_S
        if now_s < due_s:
            if known.replicas:
                self.look_again(known, due_s)
            return
        for worker_id, _ in idle(known.replicas.items()):
            self.order_detach(known, worker_id)

    def _wanted(self, window: _Window, known: Known, ready: int, now_s: float) -> int:
        window.samples.append((now_s, known.unfinished))
        while window.samples[0][0] < now_s - STABLE_S:
            window.samples.popleft()
        target = known.snapshot.config.target
        stable = math.ceil(_mean(window, now_s - STABLE_S) / target)
        panic = math.ceil(_mean(window, now_s - PANIC_S) / target)
        stable = max(stable, math.floor(ready / MAX_SCALE_DOWN))
        if panic >= PANIC_THRESHOLD * ready:
            window.panic_since_s = now_s
        elif window.panic_since_s is not None and now_s - window.panic_since_s > STABLE_S:
            window.panic_since_s, window.panic_most = None, 0
        if window.panic_since_s is None:
            return stable
        window.panic_most = max(window.panic_most, panic, ready)
        return window.panic_most


def _mean(window: _Window, since_s: float) -> float:
    loads = [load for at_s, load in window.samples if at_s >= since_s]
    return sum(loads) / len(loads)
