"""How many worker processes there should be."""

from __future__ import annotations

from math import ceil, inf

from pilotlight_autoscaler.decision import PoolTarget, Reason, Rule
from pilotlight_autoscaler.draft import Draft
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.pool_config import PoolConfig
from pilotlight_autoscaler.state import PoolState
from pilotlight_autoscaler.windows import SlidingMax


class Pool:
    """Workers in use, those that queues lack, and the spare ones; going down only after a while."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.peak = SlidingMax()
        self.target: int | None = None
        self.due_s = inf
        self._used = self._lacking = 0  # of the last decision
        self._latest: tuple[int, int] | None = None  # used and needed, under this configuration

    def configure(self, config: PoolConfig) -> None:
        """Other bounds from the next decision on."""
        self.config = config
        self._latest = None

    def decide(self, mirror: Mirror, filled: int, needed: int, now_s: float) -> PoolTarget | None:
        """The target, if it is another than last time.

        *filled*: empty workers that get something now; *needed*: what queues lack.
        """
        used = len(mirror.workers) - len(mirror.vacancies) + filled
        if (used, needed) == self._latest and now_s < self.due_s:
            return None  # the newest of the peak's values holds on
        self._latest = used, needed
        config = self.config
        least, most = config.min_workers, config.max_workers
        spare = config.buffer_workers if used or needed else 0
        wanted = used + needed + spare
        bounded = max(least, min(wanted, most))
        target = self.peak.observe(bounded, now_s, config.idle_timeout_s)
        self._used, self._lacking = used, needed
        if not least <= target <= most:  # they may have been changed since the peak
            target = max(least, min(target, most))
        self.due_s = self.peak.falls_s(config.idle_timeout_s) or inf
        if target == self.target:
            return None
        self.target = target
        return PoolTarget(target, tuple(sorted(mirror.vacancies)), self.explain(now_s))

    def explain(self, now_s: float) -> Reason:
        """Why the target is what it is, and what would have been needed for another one."""
        if self.target is None:
            return Reason("", Rule.POOL, "nothing is decided yet")
        config, target = self.config, self.target
        filled = self._used + self._lacking
        spare = config.buffer_workers if filled else 0
        wanted = filled + spare
        bounded = max(config.min_workers, min(wanted, config.max_workers))
        text = (
            f"{self._used} in use + {self._lacking} lacking + {spare} spare = {wanted}, "
            f"within {config.min_workers} to {config.max_workers}"
        )
        if target > bounded:
            text += (
                f"; {target} were wanted in the last {config.idle_timeout_s:g} s, would go to "
                f"{bounded} in {max(0.0, self.due_s - now_s):.1f} s"
            )
        elif target == config.min_workers:
            text += "; not fewer, as min_workers says"
        else:
            text += f"; would be fewer {config.idle_timeout_s:g} s after fewer are needed"
        if target >= config.max_workers:
            text += "; not more, as max_workers says"
        else:
            more = max(1, target + 1 - filled - config.buffer_workers)
            text += f"; would be {target + 1} with {more} more in use or lacking"
        inputs = {"used": self._used, "lacking": self._lacking, "spare": spare, "target": target}
        return Reason("", Rule.POOL, text, tuple((k, float(v)) for k, v in inputs.items()))

    def dump(self, worker_bytes: int) -> PoolState:
        return PoolState(peak=list(self.peak.points), target=self.target, worker_bytes=worker_bytes)

    def load(self, state: PoolState) -> None:
        self.peak = SlidingMax(tuple(state.peak))
        self.target = state.target
        self._latest = None


def needed_workers(draft: Draft, lacking: list[ModelView]) -> int:
    """Workers for those that found no room. A worker takes one replica of a model."""
    most, share = 0, 0.0
    for model in lacking:
        missing = draft.missing(model)
        if (
            model.rule is Rule.PREWARM
            or model.snapshot.nbytes > draft.mirror.sizes.largest_bytes > 0
        ):
            continue  # not worth a process; no worker of this kind would help
        most = max(most, missing)
        share += missing * model.share
    return max(most, ceil(share - 1e-9))
