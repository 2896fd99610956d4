"""Reasons in words, with their inputs and what would have been needed for something else."""

from __future__ import annotations

from pilotlight_autoscaler.decision import Reason, Rule
from pilotlight_autoscaler.demand import ended_meanwhile
from pilotlight_autoscaler.look import Look
from pilotlight_autoscaler.model_view import ModelView
from pilotlight_autoscaler.replica_view import idle_since_s
from pilotlight_autoscaler.surplus import surplus_timeout_s
from pilotlight_autoscaler.worker_view import IdleReplica


def attach_reason(model: ModelView, has: int, victims: list[IdleReplica], now_s: float) -> Reason:
    """Why one more replica starts; *has*: replicas there or ordered before it."""
    if model.rule is Rule.PREWARM:
        text = _prewarm_text(model, now_s)
    elif model.rule is Rule.DEPLOY:
        text = "its revision has gone live: wants 1, has 0"
    else:
        text = f"{_load_text(model)}: wants {model.want}, has {has}{_bound_text(model, now_s)}"
    text += _else_text(model, has)
    if victims:
        names = ", ".join(f"{idle.replica.model} ({idle.replica.revision_id})" for idle in victims)
        text += f"; evicts idle {names}"
    return Reason(model.name, attach_rule(model), text, inputs_of(model))


def attach_rule(model: ModelView) -> Rule:
    """By which rule a replica starts: who had what it needs, and was evicted from, has a load."""
    return Rule.LOAD if model.rule is Rule.HOLDS else model.rule


def detach_rule(model: ModelView) -> Rule:
    """By which rule an idle replica goes although nobody needs its room."""
    return Rule.SURPLUS if model.keep > 0 else Rule.IDLE


def detach_reason(model: ModelView, worker_id: str, look: Look, now_s: float) -> Reason:
    """Why it goes."""
    idle_s = now_s - idle_since_s(model.live[worker_id])
    config = model.snapshot.config
    surplus = model.keep > 0 or model.ready > 1
    rule = detach_rule(model)
    if model.learned.prewarm_until_s is not None:
        text = f"idle for {idle_s:.1f} s, the request that it was started for did not come"
    elif config.idle_timeout_s is not None and config.downscale_delay_s is None:
        text = f"idle for {idle_s:.1f} s, idle_timeout_s is {config.idle_timeout_s:g}"
    else:
        stays_s = surplus_timeout_s(model) if surplus else look.windows(model).keep_s
        text = f"idle for {idle_s:.1f} s, which pays for {stays_s:.1f} s {_worth_text(model)}"
    return Reason(model.name, rule, text, (*inputs_of(model), ("idle_s", idle_s)))


def obsolete_reason(model: str, revision_id: str) -> Reason:
    return Reason(model, Rule.OBSOLETE, f"idle, and no model lists revision {revision_id}")


def drain_reason(model: ModelView, now_s: float) -> Reason:
    peak = model.learned.peak.points[0][1]
    text = (
        f"{_load_text(model)}: has wanted {peak} for long, has {model.ready}, all of them busy; "
        f"would keep it had {model.ready} been wanted"
    )
    return Reason(model.name, Rule.SURPLUS, text, (*inputs_of(model), ("peak", float(peak))))


def hold_reason(model: ModelView, look: Look, now_s: float) -> Reason:
    """Why nothing is done, and what would have been needed."""
    live = model.ready + model.attaching
    target = model.target
    if model.want > live:
        wait_s = max(0.0, model.snapshot.retry_at_s - now_s)
        text = f"wants {model.want}, has {live}; after a failed attach not before {wait_s:.1f} s"
        rule = Rule.RETRY
    elif live == 0:
        text = f"at zero; would start at the first request{_gate_text(model)}"
        rule, text = Rule.REST, text + _deploy_text(model, now_s)
    elif model.demand > target * live:
        rule, text = _short_of(model, live, now_s)
    elif model.demand == 0:
        rule, text = Rule.HOLDS, _idle_text(model, look, now_s)
    else:
        rule = Rule.HOLDS
        text = (
            f"{_load_text(model)}: has {live}; "
            f"would start one more above {target * live:g}, saw {model.demand}"
        )
    return Reason(model.name, rule, text, inputs_of(model))


def new_hold_reason(model: ModelView, look: Look, now_s: float) -> Reason | None:
    """Why nothing is done, if that is another rule than last time; notes it."""
    learned, live = model.learned, model.ready + model.attaching
    if model.want > live:
        return None
    steady = model.demand <= model.target * live
    if steady and learned.rule == (Rule.REST if live == 0 else Rule.HOLDS):
        return None
    reason = hold_reason(model, look, now_s)
    if reason.rule == learned.rule:
        return None
    learned.rule = reason.rule
    return reason


def inputs_of(model: ModelView) -> tuple[tuple[str, float], ...]:
    """The numbers that rules look at."""
    learned = model.learned
    return (
        ("queued", float(model.queued)),
        ("ongoing", float(model.ongoing)),
        ("ready", float(model.ready)),
        ("attaching", float(model.attaching)),
        ("want", float(model.want)),
        ("cold_start_s", model.cold_start_s),
        ("burst", learned.burst.k),
        ("break_even_s", model.break_even_s),
        ("gaps", float(learned.gaps.observed)),
        ("hit_rate", learned.hit_rate),
    )


def _load_text(model: ModelView) -> str:
    return f"{model.queued} queued + {model.ongoing} ongoing, target {model.target:g}"


def _bound_text(model: ModelView, now_s: float) -> str:
    config, load = model.snapshot.config, model.learned.load
    if model.rule is Rule.PANIC:
        window_s = config.panic.window_s
        return f", panic: {window_s:g} s mean {load.mean(now_s, window_s):.1f}"
    if model.demand > model.target * model.want and model.want == config.max_replicas:
        return f", max_replicas is {config.max_replicas}"
    if model.rule is Rule.FLOOR and model.demand <= model.target * (model.want - 1):
        name = "min_replicas" if model.want == config.min_replicas else "the schedule's floor"
        return f", {name} is {model.want}"
    return ""


def _prewarm_text(model: ModelView, now_s: float) -> str:
    learned, forecast = model.learned, model.forecast
    since_s = learned.idle_since_s or now_s
    ends_s = forecast.drop_age_s if forecast is not None else 0.0
    return (
        f"idle for {now_s - since_s:.0f} s; after {learned.gaps.observed} gaps a request is due "
        f"within {max(0.0, since_s + ends_s - now_s):.0f} s, which came true in "
        f"{learned.hit_rate:.0%} of the cases"
    )


def _else_text(model: ModelView, has: int) -> str:
    """With what load, or what luck, the replica would not have been started."""
    if model.rule is Rule.PREWARM:
        return f"; would not below {model.snapshot.config.prewarm.min_hit_rate:.0%}"
    if model.rule is Rule.FROM_ZERO and not has:
        return "; would stay at zero with none queued"
    if model.rule is Rule.DEPLOY:
        return "; would not without prewarm.on_deploy"
    if model.rule is Rule.FLOOR or not has:
        return ""
    return f"; would start none at {model.target * has:g} or fewer"


def _worth_text(model: ModelView) -> str:
    learned = model.learned
    return (
        f"(cold start {model.cold_start_s:.2g} s, k {learned.burst.k:.1f}, "
        f"weight {model.weight:g}, {learned.gaps.observed} gaps)"
    )


def _gate_text(model: ModelView) -> str:
    learned, prewarm = model.learned, model.snapshot.config.prewarm
    if not prewarm.enabled or model.snapshot.config.idle_timeout_s is not None:
        return ""
    if learned.gaps.observed < prewarm.min_observations:
        return f", ahead of it after {prewarm.min_observations} gaps, saw {learned.gaps.observed}"
    if learned.hit_rate < prewarm.min_hit_rate:
        return (
            f", ahead of it at a hit rate of {prewarm.min_hit_rate:g}, saw {learned.hit_rate:.2f}"
        )
    return ""


def _deploy_text(model: ModelView, now_s: float) -> str:
    left_s = model.learned.prewarm_retry_s - now_s
    if not model.learned.first_due or left_s <= 0:
        return ""
    return f"; its start at the deploy found no room and is tried again in {left_s:.1f} s"


def _short_of(model: ModelView, live: int, now_s: float) -> tuple[Rule, str]:
    config = model.snapshot.config
    if live >= config.max_replicas:
        return Rule.HOLDS, f"{_load_text(model)}: has {live}, max_replicas is {live}"
    since_s = model.learned.rising_since_s
    left_s = 0.0 if since_s is None else since_s + config.upscale_delay_s - now_s
    if since_s is not None and (left_s > 0 or model.attaching):
        when = f"in {left_s:.1f} s, upscale_delay_s is {config.upscale_delay_s:g}"
        if left_s <= 0:
            when = (
                f"when those {model.attaching} on their way are ready, "
                f"upscaling_factor is {config.upscaling_factor:g}"
            )
        return Rule.HOLDS, f"{_load_text(model)}: has {live}; would start more {when}"
    left = model.queued - ended_meanwhile(model, live)
    if model.queued and left <= 0:
        return Rule.GUARD, (
            f"{_load_text(model)}: the {live} there end {ended_meanwhile(model, live):.1f} while "
            f"another starts ({model.cold_start_s:.1f} s); would start it for more queued than that"
        )
    mean = model.learned.load.mean(model.learned.load.seen_s)
    return Rule.HOLDS, (
        f"{_load_text(model)}: has {live}; would start one more at a "
        f"{config.panic.stable_window_s:g} s mean above {model.target * live:g}, saw {mean:.1f}"
    )


def _idle_text(model: ModelView, look: Look, now_s: float) -> str:
    live = model.ready + model.attaching
    if not model.ready:
        return f"{live} attaching, nothing asked"
    if model.ready <= model.keep:
        return f"idle, keeps {model.keep} of {live}"
    age_s = max(0.0, now_s - max(idle_since_s(each) for each in model.live.values()))
    goes_s = min(model.leaves_at.values(), default=now_s)
    return (
        f"idle for {age_s:.1f} s; would go in {max(0.0, goes_s - now_s):.1f} s {_worth_text(model)}"
    )
