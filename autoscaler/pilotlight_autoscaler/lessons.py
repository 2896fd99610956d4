"""What is learned from requests and starts as they are told of: gaps, bursts, forecasts, times."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler.checks import check_end, require
from pilotlight_autoscaler.errors import InputError
from pilotlight_autoscaler.first_tokens import FirstTokens
from pilotlight_autoscaler.keep_alive import Windows
from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.mirror import Mirror
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.snapshot import Tier


class Lessons:
    """Teaches the models of a mirror."""

    def __init__(self, mirror: Mirror, look: Look) -> None:
        self._mirror = mirror
        self._look = look

    def arrived(self, model: str, at_s: float, requests: int) -> None:
        view = self._mirror.model(model)
        if requests < 1:
            raise InputError(f"requests of an arrival of model {model!r} must be at least 1")
        require(at_s, "at_s of an arrival")
        learned = view.learned
        began_s = learned.idle_since_s
        if began_s is not None:
            gap_s = at_s - began_s if at_s > began_s else 0.0
            if gap_s:  # where a clock was set back nobody knows how long it was
                self._judge(view, gap_s)
                learned.gaps.add(gap_s)
            view.rested = view.only and gap_s > self._look.rules.keep_alive.at_least_s(view)
            learned.idle_since_s = learned.prewarm_until_s = None
            learned.prewarm_retry_s = 0.0
            learned.version += 1
            view.windows = None
            self._mirror.changed.add(model)
        if learned.burst.arrived(at_s, requests, view.cold_start_s, after_gap=began_s is not None):
            learned.version += 1

    def finished(self, model: str, at_s: float, left: int, service_s: float | None) -> None:
        view = self._mirror.model(model)
        check_end(at_s, left, service_s)
        if service_s is not None:
            view.learned.served(service_s)
        if left == 0:
            view.learned.idle_since_s = at_s
            self._mirror.changed.add(model)

    def deployed(self, model: str) -> None:
        view = self._mirror.model(model)
        view.learned.first_due = view.snapshot.config.prewarm.on_deploy
        self._mirror.changed.add(model)

    def cold_started(self, model: str, tier: Tier, seconds: float) -> None:
        view = self._mirror.model(model)
        require(seconds, f"seconds of a cold start of model {model!r}")
        view.learned.cold_starts.add(tier, seconds)
        view.measure()
        self._mirror.changed.add(model)

    def answered_cold(
        self, model: str, revision_id: str, tier: Tier, seconds: float, spans: Mapping[str, float]
    ) -> None:
        view = self._mirror.model(model)
        require(seconds, f"seconds to a first token of model {model!r}")
        for name, span_s in spans.items():
            require(span_s, f"seconds of span {name!r} of model {model!r}")
        if revision_id != view.snapshot.revision_id:
            return  # it has been replaced meanwhile
        learned = view.learned
        if learned.first_tokens.revision_id != revision_id:
            learned.first_tokens = FirstTokens(revision_id)
        learned.first_tokens.add(tier, seconds, spans)

    def _judge(self, view: ModelView, gap_s: float) -> None:
        """What did the windows of this gap cost, and were the prewarm ones right?

        The latter also if they were not trusted.
        """
        config, learned = view.config, view.learned
        if not view.auto:
            return
        absent = not view.live or learned.prewarm_until_s is not None
        short = gap_s <= config.keep_alive.min_s
        if short and not absent:
            return
        # Those that were followed: what was measured meanwhile has not moved them.
        windows = view.windows or self._look.windows(view)
        if not short:
            followed = windows
            if windows.prewarm and not self._look.rules.keep_alive.trusts(view):
                followed = Windows(windows.keep_s)
            learned.guard.closed(followed, gap_s, view.cold_start_s, view.weight, learned.burst.k)
        prewarm = config.prewarm
        if not prewarm.enabled:
            return
        if learned.gaps.observed >= prewarm.min_observations:
            ahead = windows.prewarm
            if gap_s <= windows.keep_s:  # it had to go although it might have stayed
                ahead = windows.recall if absent else ()
            for each in ahead:
                if each.load_age_s <= gap_s:
                    learned.forecast(gap_s <= each.drop_age_s)
