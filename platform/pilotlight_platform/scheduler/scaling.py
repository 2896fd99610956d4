"""What a model's settings come to, for people."""

from __future__ import annotations

from pilotlight_autoscaler import Autoscaler, Tier
from pilotlight_autoscaler.planning.keep_for import keep_for
from pilotlight_platform.schemas.decision import PrewarmWindow, ScalingStatus


def scaling_status(autoscaler: Autoscaler, name: str, now_s: float) -> ScalingStatus:
    """Raises InputError for a model that the autoscaler was not told of."""
    view, windows = autoscaler.view(name), autoscaler.windows(name)
    config, learned = view.snapshot.config, view.learned
    measured = {tier: learned.cold_starts.typical_s(tier) for tier in Tier}
    held = [floor.min_replicas for floor in config.schedule if floor.covers(now_s)]
    changes = [floor.next_change_s(now_s) for floor in config.schedule]
    return ScalingStatus(
        model=name,
        config=config,
        target_ongoing_requests=config.target,
        cold_start_s=view.cold_start_s,
        cold_starts_s={str(tier): s for tier, s in measured.items() if s is not None},
        burst=learned.burst.k,
        service_s=view.service_s,
        break_even_s=view.break_even_s,
        keep_s=windows.keep_s,
        prewarm=[
            PrewarmWindow(load_age_s=each.load_age_s, drop_age_s=each.drop_age_s)
            for each in windows.prewarm
        ],
        gaps=learned.gaps.observed,
        hit_rate=learned.hit_rate,
        floor=max([config.min_replicas, *held]),
        schedule_changes_at_s=min((s for s in changes if s is not None), default=None),
        keep_for=keep_for(learned.gaps),
    )
