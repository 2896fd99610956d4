"""How long a cold start will take, by tier and span: from bytes, links and the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pilotlight_autoscaler.first_tokens import Seen
from pilotlight_autoscaler.planning.knowledge import Knowledge, Weights
from pilotlight_autoscaler.quantiles import Quantiles
from pilotlight_autoscaler.snapshot import Tier
from pilotlight_autoscaler.sources import transfer_s

# Of spans that nobody has measured: medians of benchmarks/results/cold-2026-11-28.json (two shared
# cores), rounded up. `prefill` is what a first forward takes beside working through its weights.
ASSUMED_S = {
    "admit": 0.002,
    "place": 0.005,
    "start_worker": 6.0,  # a process, and torch and transformers imported in it
    "attach": 0.003,
    "stage": 0.001,  # looking up that all pages are there
    "prefill": 0.005,
    "first_token": 0.003,
}
# p95 and p99 over the median, until there are enough cold starts to know.
ASSUMED_SPREAD = (1.5, 2.5)
ENOUGH = 20  # cold starts: of fewer, the 95th of 100 is the slowest one
_OVERLAPPING = frozenset({"fetch", "stage", "prefill"})
_LOADING = frozenset({"attach", "fetch", "stage"})


class Basis(StrEnum):
    """Where a number comes from, the best first."""

    TIMELINES = "timelines"  # cold starts of this very model on this platform
    OTHERS = "other models"  # cold starts of others there
    LINK = "link"  # bytes over a measured bandwidth
    ASSUMED = "assumed"  # nothing was measured


@dataclass(frozen=True, slots=True)
class SpanForecast:
    """One span of a cold start; *nbytes* over the link of *tier*, where it is a transfer."""

    name: str
    seconds: float
    basis: Basis
    nbytes: int = 0
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """A cold start from *tier*. `fetch`, `stage` and `prefill` overlap: spans sum up to more."""

    tier: Tier
    seconds: Quantiles
    basis: Basis  # of p50: that of its longest span
    spread: Basis  # of p95 and p99
    spans: tuple[SpanForecast, ...]

    @property
    def longest(self) -> SpanForecast:
        return max(self.spans, key=lambda span: span.seconds)

    @property
    def load_s(self) -> float:
        """From the order until the weights are there: what ``ColdStarts`` measures."""
        return sum(span.seconds for span in self.spans if span.name in _LOADING)


def forecast(
    weights: Weights, tier: Tier, knowledge: Knowledge, *, starts_worker: bool = False
) -> Forecast:
    """A cold start whose weights come from *tier*.

    *starts_worker*: no worker is warm. Raises InputError for bytes that are none.
    """
    weights.check()
    spans = (
        _usual("admit", tier, knowledge),
        _usual("start_worker" if starts_worker else "place", tier, knowledge),
        _usual("attach", tier, knowledge),
        *_transfers(weights, tier, knowledge),
        _prefill(weights, knowledge),
        _usual("first_token", tier, knowledge),
    )
    seen = knowledge.own.get(tier)
    if seen is None or starts_worker != ("start_worker" in seen.spans):
        return _spread(tier, _together_s(spans, weights.layers), spans, knowledge, None)
    return _spread(tier, seen.seconds.p50, spans, knowledge, seen)


def warm_forecast(weights: Weights, knowledge: Knowledge) -> Forecast:
    """A first token from a replica that is there."""
    weights.check()
    spans = (
        _usual("admit", Tier.HOST, knowledge),
        _prefill(weights, knowledge),
        _usual("first_token", Tier.HOST, knowledge),
    )
    return _spread(Tier.HOST, _together_s(spans, 1), spans, knowledge, None)


def _together_s(spans: Sequence[SpanForecast], parts: int) -> float:
    """One after the other, but for a pipeline of transfers and the forward pass.

    Of *parts* equal ones, the slowest stage never waits: its time, and one part of each other.
    """
    pipeline = [span.seconds for span in spans if span.name in _OVERLAPPING]
    slowest_s = max(pipeline)
    serial_s = sum(span.seconds for span in spans if span.name not in _OVERLAPPING)
    return serial_s + slowest_s + (sum(pipeline) - slowest_s) / parts


def _usual(name: str, tier: Tier, knowledge: Knowledge) -> SpanForecast:
    """A span that takes what it always takes, whatever the model's size."""
    own = _typical_s(name, tier, knowledge.own)
    if own is not None:
        return SpanForecast(name, own, Basis.TIMELINES)
    others = [_typical_s(name, tier, other.seen) for other in knowledge.others]
    found = [seconds for seconds in others if seconds is not None]
    if found:
        return SpanForecast(name, median(found), Basis.OTHERS)
    return SpanForecast(name, ASSUMED_S[name], Basis.ASSUMED)


def _transfers(weights: Weights, tier: Tier, knowledge: Knowledge) -> tuple[SpanForecast, ...]:
    if tier is Tier.HOST:
        return (_usual("stage", Tier.HOST, knowledge),)
    stage = _transfer("stage", weights.nbytes, Tier.DISK, knowledge)
    if tier is Tier.DISK:
        return (stage,)
    return (_transfer("fetch", weights.source_nbytes, tier, knowledge), stage)


def _transfer(name: str, nbytes: int, tier: Tier, knowledge: Knowledge) -> SpanForecast:
    seen = knowledge.own.get(tier)
    if seen is not None and name in seen.spans:
        return SpanForecast(name, seen.spans[name], Basis.TIMELINES, nbytes, tier)
    basis = Basis.LINK if knowledge.bytes_per_s.get(tier) else Basis.ASSUMED
    seconds = transfer_s(nbytes, knowledge.bytes_per_s, tier)
    return SpanForecast(name, seconds, basis, nbytes, tier)


def _prefill(weights: Weights, knowledge: Knowledge) -> SpanForecast:
    """The first forward: at least what its weights take from memory, and what a smaller model took.

    From memory where that was seen: beside a transfer the span is waiting, too.
    """
    nbytes = weights.compute_nbytes
    own = _typical_s("prefill", Tier.HOST, knowledge.own)
    if own is not None:
        return SpanForecast("prefill", own, Basis.TIMELINES, nbytes, Tier.HOST)
    worked_s = ASSUMED_S["prefill"] + transfer_s(nbytes, knowledge.bytes_per_s, Tier.HOST)
    smaller = [
        other.seen[Tier.HOST].spans.get("prefill", 0.0)
        for other in knowledge.others
        if other.compute_nbytes <= nbytes and Tier.HOST in other.seen
    ]
    if max(smaller, default=0.0) > worked_s:
        return SpanForecast("prefill", max(smaller), Basis.OTHERS, nbytes, Tier.HOST)
    return SpanForecast("prefill", worked_s, Basis.ASSUMED, nbytes, Tier.HOST)


def _typical_s(name: str, tier: Tier, seen: Mapping[Tier, Seen]) -> float | None:
    """From *tier*, or else from any."""
    nearest = (each for each in (seen.get(tier), *seen.values()) if each is not None)
    return next((each.spans[name] for each in nearest if name in each.spans), None)


def _spread(
    tier: Tier,
    typical_s: float,
    spans: tuple[SpanForecast, ...],
    knowledge: Knowledge,
    seen: Seen | None,
) -> Forecast:
    """With p95 and p99: seen, or in the proportion to p50 that others have, or an assumed one."""
    basis = Basis.TIMELINES if seen is not None else max(spans, key=lambda span: span.seconds).basis
    if seen is not None and seen.count >= ENOUGH:
        return Forecast(tier, seen.seconds, basis, Basis.TIMELINES, spans)
    wide = [
        other.seen[tier].seconds
        for other in knowledge.others
        if tier in other.seen and other.seen[tier].count >= ENOUGH
    ]
    wide = [each for each in wide if each.p50 > 0]
    to_p95, to_p99 = ASSUMED_SPREAD
    if wide:
        to_p95 = median(each.p95 / each.p50 for each in wide)
        to_p99 = median(each.p99 / each.p50 for each in wide)
    p95, p99 = typical_s * to_p95, typical_s * to_p99
    if seen is not None:  # few as they are, so slow some of them were
        p95, p99 = max(p95, seen.seconds.p95), max(p99, seen.seconds.p99)
    spread = Basis.OTHERS if wide else Basis.ASSUMED
    return Forecast(tier, Quantiles(typical_s, p95, max(p95, p99)), basis, spread, spans)
