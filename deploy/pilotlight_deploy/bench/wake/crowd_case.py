"""More models than have room, all in use: nobody is lost, and what the cold ones wait.

The schedule does not wait for answers, and each latency counts from the moment at which the
schedule has its request: a platform that stalls is charged for all that it kept waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotlight_autoscaler import AutoscalingConfig
from pilotlight_deploy.bench.report import Figure, figure, percentile, percentile_figure
from pilotlight_deploy.bench.wake.asking import Asked, ask, connect
from pilotlight_deploy.bench.wake.fleet import Advance, Fleet
from pilotlight_deploy.bench.wake.scale import Scale
from pilotlight_deploy.bench.wake.traffic import Arrival, poisson_zipf
from pilotlight_deploy.bench.wake.usage import Usage, UsageWatch
from pilotlight_deploy.client import PlatformClient
from pilotlight_platform.address import PlatformAddress
from pilotlight_platform.schemas.timeline import Timeline

_SAMPLE_S = 2.0
_KEPT_DECISIONS = 200  # per model, by the platform
_EVICTS = "; evicts idle "
_EXAMPLES = 5
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Decided:
    """What the scheduler did in the time of the traffic."""

    attaches: int
    prewarms: int
    detaches: int
    evictions: int
    unplaced: int
    unknown_models: int  # that may have had more decisions than are kept


@dataclass(frozen=True, slots=True)
class Crowd:
    """Every question of the traffic, in the order of the schedule."""

    asked: tuple[Asked, ...]
    cold: frozenset[str]  # request ids
    slowest: tuple[Timeline, ...]  # of the cold
    lost: tuple[tuple[Asked, str], ...]  # with the reason
    seconds: float
    usage: Usage
    decided: Decided
    log_bytes: int

    def ttft_ms(self, *, cold: bool) -> list[float]:
        answered = (one for one in self.asked if (one.request_id in self.cold) == cold)
        return [one.ttft_s * 1e3 for one in answered if one.ttft_s is not None]


async def measure_crowd(
    client: PlatformClient, address: PlatformAddress, fleet: Fleet, scale: Scale, advance: Advance
) -> Crowd:
    """Traffic on all models with the default autoscaling."""
    for number, name in enumerate(fleet.names):
        advance("setting the default autoscaling", number / len(fleet.names))
        client.configure(name, AutoscalingConfig())
    arrivals = poisson_zipf(
        fleet.names,
        seconds=scale.seconds,
        per_s=scale.per_s,
        exponent=scale.zipf,
        seed=scale.seed,
    )
    watch = UsageWatch(address.pid, [worker.pid for worker in client.status().workers])
    log_bytes = _log_bytes(Path(address.home))
    began_at_s, began_s = time.time(), time.monotonic()
    asked = await _send(client.url, arrivals, scale, watch, advance)
    seconds = time.monotonic() - began_s
    usage = watch.usage()
    cold = _cold(client, asked, advance)
    return Crowd(
        asked=asked,
        cold=frozenset(timeline.request_id for timeline in cold),
        slowest=tuple(sorted(cold, key=lambda line: line.ttft_s or 0.0)[-_EXAMPLES:]),
        lost=tuple(lost_of(asked, fleet)),
        seconds=seconds,
        usage=usage,
        decided=_decided(client, fleet, began_at_s, advance),
        log_bytes=_log_bytes(Path(address.home)) - log_bytes,
    )


async def _send(
    url: str, arrivals: Sequence[Arrival], scale: Scale, watch: UsageWatch, advance: Advance
) -> tuple[Asked, ...]:
    sampled_s = began_s = time.monotonic()
    async with connect(url) as http, asyncio.TaskGroup() as group:
        tasks = []
        for arrival in arrivals:
            due_s = began_s + arrival.at_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.append(group.create_task(ask(http, arrival.model, due_s)))
            if due_s - sampled_s > _SAMPLE_S:
                watch.sample()
                sampled_s = due_s
            advance(f"traffic on {scale.models} models", arrival.at_s / scale.seconds)
    return tuple(task.result() for task in tasks)


def _cold(client: PlatformClient, asked: Sequence[Asked], advance: Advance) -> list[Timeline]:
    """Whose model had no ready replica. Only they, and who waited for a slot, were placed."""
    placed = [one.request_id for one in asked if one.placed]
    cold = []
    for number, request_id in enumerate(placed):
        advance("reading timelines", number / len(placed))
        timeline = client.timeline(request_id)
        if timeline.cold:
            cold.append(timeline)
    return cold


def lost_of(asked: Sequence[Asked], fleet: Fleet) -> list[tuple[Asked, str]]:
    """Those that were not answered, or not as their model answers, with the reason."""
    lost = []
    for one in asked:
        if one.problem is not None:
            lost.append((one, one.problem))
        elif one.text != fleet.answers[one.model]:
            other = one.text in fleet.answers.values()
            lost.append((one, "another model's answer" if other else "no model's answer"))
    return lost


def _decided(client: PlatformClient, fleet: Fleet, since_s: float, advance: Advance) -> Decided:
    actions: Counter[str] = Counter()
    evictions = unknown = 0
    for number, name in enumerate(fleet.names):
        advance("reading decisions", number / len(fleet.names))
        decisions = client.explain(name, since_s).decisions
        actions.update(each.action for each in decisions)
        unknown += len(decisions) >= _KEPT_DECISIONS
        evictions += sum(each.reason.partition(_EVICTS)[2].count(" (") for each in decisions)
    return Decided(
        attaches=actions["attach"],
        prewarms=actions["prewarm"],
        detaches=actions["detach"],
        evictions=evictions,
        unplaced=actions["unplaced"],
        unknown_models=unknown,
    )


def _log_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "log").iterdir())


def crowd_figures(crowd: Crowd) -> list[Figure]:
    """The lost ones first; a percentile of no requests is left out."""
    share = len(crowd.cold) / len(crowd.asked)
    most = [peak / 1e6 for _, peak, _ in crowd.usage.rss_bytes.values()]
    cold = crowd.ttft_ms(cold=True)
    return [
        figure("wake.crowd_lost", [float(len(crowd.lost))], "requests", goal=0.0),
        *([percentile_figure("wake.crowd_cold_p95_ms", cold, 95, "ms")] if cold else ()),
        *_ttft_figures("cold", cold, (50, 99)),
        *_ttft_figures("warm", crowd.ttft_ms(cold=False), _PERCENTILES),
        figure("wake.crowd_requests", [float(len(crowd.asked))], "requests", better="higher"),
        figure(
            "wake.crowd_requests_per_s", [len(crowd.asked) / crowd.seconds], "1/s", better="higher"
        ),
        figure("wake.crowd_cold_share", [share], ""),
        figure("wake.crowd_evictions", [float(crowd.decided.evictions)], ""),
        figure("wake.crowd_worker_peak_mb", [max(most)], "MB"),
        figure("wake.crowd_busy_share", [crowd.usage.machine_busy], ""),
    ]


def _ttft_figures(kind: str, values: list[float], percentiles: Sequence[int]) -> list[Figure]:
    if not values:
        return []
    return [
        percentile_figure(f"wake.crowd_{kind}_p{percent}_ms", values, percent, "ms")
        for percent in percentiles
    ]


def crowd_case(crowd: Crowd, fleet: Fleet) -> dict[str, Any]:
    """What the figures leave out."""
    lost = [
        {"model": one.model, "request_id": one.request_id, "why": why} for one, why in crowd.lost
    ]
    late_ms = [one.late_s * 1e3 for one in crowd.asked]
    usage = asdict(crowd.usage)
    return {
        "case": "crowd",
        "requests": len(crowd.asked),
        "models_asked": len({one.model for one in crowd.asked}),
        "models": len(fleet.names),
        "cold": len(crowd.cold),
        "lost_by_reason": dict(Counter(why for _, why in crowd.lost)),
        "lost": lost[:_EXAMPLES],
        "slowest": [_spans_ms(timeline) for timeline in crowd.slowest],
        "sent_late_p99_ms": percentile(late_ms, 99),
        **asdict(crowd.decided),
        **{key: usage[key] for key in ("machine_busy", "platform_busy", "client_busy")},
        "workers_rss_bytes": [
            {"first": first, "peak": peak, "last": last}
            for first, peak, last in crowd.usage.rss_bytes.values()
        ],
        "log_bytes": crowd.log_bytes,
    }


def _spans_ms(timeline: Timeline) -> dict[str, Any]:
    """Where the time of a request went: begin and end of each span, since its arrival."""
    spans: dict[str, Any] = {
        span.name: [(at_s - timeline.at_s) * 1e3 for at_s in (span.start_s, span.end_s)]
        for span in timeline.spans
    }
    return {"model": timeline.model, "at_s": timeline.at_s, **spans}
