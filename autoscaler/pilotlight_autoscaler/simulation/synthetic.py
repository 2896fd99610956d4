"""Synthetic traffic of many models in the shape of the published Azure studies. Seeded.

A model's number of requests is exact; their gaps are Gamma with the drawn coefficient of variation,
in operational time that a weekly profile stretches. Models without variation are timers.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from pilotlight_autoscaler.simulation.profile import FLAT, draw_profile
from pilotlight_autoscaler.simulation.published import (
    AZURE_DAILY_REQUESTS,
    AZURE_INTERARRIVAL_CV,
    CHAT,
    CODE,
    DAY_S,
    MAX_INPUT_TOKENS,
    MAX_OUTPUT_TOKENS,
    TIMER_PERIODS_S,
    Tokens,
)
from pilotlight_autoscaler.simulation.trace import US_PER_S, ServiceModel, Trace, TraceBuilder

_TIMER_MIN_DAILY, _TIMER_MAX_DAILY = 0.7, 1500.0
_TIMER_JITTER_S = 1.0
_MIN_CV = 0.05
_TIMER_CV = 0.02
_STUDY_DAYS = 14
LEAST_GAPS = 3  # of a variation that is measured
_SAME_CLIENT = 0.8  # a client's requests come in runs
_PROFILE_REACH_S = 4 * 3600.0  # gaps longer than this average the profile out


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much of it. Hot models may be cut to *max_daily_requests*: they are always warm."""

    models: int = 100
    days: float = 7.0
    seed: int = 0
    max_daily_requests: float = math.inf
    service: ServiceModel = field(default_factory=ServiceModel)


@dataclass(slots=True)
class _Drawn:
    daily: float
    count: int
    cv: float = 1.0
    timer: bool = False


def azure_trace(traffic: Traffic) -> Trace:
    """The trace; the same for the same values. Models without a request are in it, too."""
    random = Random(f"azure/{traffic.seed}/{traffic.models}/{traffic.days}")
    horizon_s = traffic.days * DAY_S
    builder = TraceBuilder()
    arrivals_s: Iterable[float]
    for index, drawn in enumerate(_draw_models(traffic, random)):
        name = f"model-{index:04d}"
        builder.model_index(name)
        if drawn.timer:
            arrivals_s = _timer_s(drawn.daily, horizon_s, random)
        else:
            arrivals_s = _renewal_s(drawn, horizon_s, random)
        lengths = _lengths(random)
        for at_s in arrivals_s:
            inputs, outputs = next(lengths)
            first_s = traffic.service.first_token_s(inputs)
            service_s = traffic.service.service_s(inputs, outputs)
            builder.add(int(at_s * US_PER_S), name, first_s, service_s)
    return builder.build(round(horizon_s * US_PER_S))


def _draw_models(traffic: Traffic, random: Random) -> list[_Drawn]:
    """Rates and variations, both stratified: the tables hold for small fleets as well."""
    models = []
    for share in _strata(traffic.models, random):
        daily = min(AZURE_DAILY_REQUESTS.quantile(share), traffic.max_daily_requests)
        # The table counts whole requests of its fortnight.
        expected = math.ceil(daily * _STUDY_DAYS - 1e-9) * traffic.days / _STUDY_DAYS
        count = int(expected) + (random.random() < expected % 1)
        models.append(_Drawn(daily, count))
    # The published variations are of those that came often enough to have one.
    varied = [model for model in models if model.count > LEAST_GAPS]
    variations = sorted(
        AZURE_INTERARRIVAL_CV.quantile(share) for share in _strata(len(varied), random)
    )
    rest = _choose_timers(varied, sum(cv == 0 for cv in variations), random)
    _assign_variations(rest, variations[len(varied) - len(rest) :], random)
    random.shuffle(models)
    return models


def _strata(count: int, random: Random) -> list[float]:
    shares = [(at + random.random()) / count for at in range(count)]
    random.shuffle(shares)
    return shares


def _choose_timers(models: list[_Drawn], count: int, random: Random) -> list[_Drawn]:
    """Make *count* models timers, those at the table's jumps first; the others."""
    able = [model for model in models if _TIMER_MIN_DAILY <= model.daily <= _TIMER_MAX_DAILY]
    random.shuffle(able)
    able.sort(key=lambda model: model.daily not in (288.0, 1440.0))
    for model in able[:count]:
        model.timer = True
    return [model for model in models if not model.timer]


def _assign_variations(models: list[_Drawn], variations: list[float], random: Random) -> None:
    """The most varied first, each to a model that has requests enough to vary so much."""
    waiting = sorted(models, key=lambda model: model.count)
    able: list[_Drawn] = []
    for cv in reversed(variations):
        while waiting and (waiting[-1].count > 1 + 2 * cv * cv or not able):
            able.append(waiting.pop())
        chosen = random.randrange(len(able))
        able[chosen], able[-1] = able[-1], able[chosen]
        able.pop().cv = max(cv, _MIN_CV)


def _timer_s(daily: float, horizon_s: float, random: Random) -> Iterator[float]:
    period_s = min(TIMER_PERIODS_S, key=lambda each: abs(math.log(each * daily / DAY_S)))
    at_s = random.uniform(0, period_s)
    while at_s < horizon_s:
        yield min(max(0.0, at_s + random.uniform(-1, 1) * _TIMER_JITTER_S), horizon_s)
        at_s += period_s


def _renewal_s(drawn: _Drawn, horizon_s: float, random: Random) -> list[float]:
    """Exactly ``count`` arrivals on a circle of operational time, stretched by a profile."""
    count, profile = drawn.count, draw_profile(random)
    if count == 0:
        return []
    squared = drawn.cv**2
    # A profile stretches gaps that are short beside it: take out what it will put in.
    reach = 1 / (1 + horizon_s / count * (1 + squared) / _PROFILE_REACH_S)
    roughness = 1 + (profile.roughness - 1) * reach
    if (squared + 1) / roughness - 1 > _MIN_CV**2:
        squared = (squared + 1) / roughness - 1
    else:
        profile = FLAT
    # With a fixed sum of n gaps, E[cv²] = n (a + 1) / (n a + 1) - 1 for Gamma gaps of shape a.
    shape = max(1e-3, (count - 1 - squared) / (count * squared))
    gaps = [random.gammavariate(shape, 1.0) for _ in range(count)]
    total = sum(gaps) or 1.0
    turn = random.random()
    shares = sorted((turn + below / total) % 1.0 for below in accumulate(gaps))
    return profile.times_s(shares, horizon_s)


def _lengths(random: Random) -> Iterator[tuple[float, float]]:
    """Input and output tokens of one request after another, of one to five clients in turns."""
    tokens = random.choice((CHAT, CODE))
    clients = random.randint(1, 5)
    scales = [random.lognormvariate(0, 0.3) for _ in range(clients)]
    weights = [1 / (rank + 1) for rank in range(clients)]
    client = 0
    while True:
        if clients > 1 and random.random() > _SAME_CLIENT:
            client = random.choices(range(clients), weights)[0]
        yield _draw_lengths(tokens, scales[client], random)


def _draw_lengths(tokens: Tokens, scale: float, random: Random) -> tuple[float, float]:
    inputs = scale * random.lognormvariate(tokens.input_mu, tokens.input_sigma)
    outputs = scale * random.lognormvariate(tokens.output_mu, tokens.output_sigma)
    return (
        float(min(MAX_INPUT_TOKENS, max(1, round(inputs)))),
        float(min(MAX_OUTPUT_TOKENS, max(1, round(outputs)))),
    )


def daily_requests(trace: Trace) -> list[float]:
    """Mean requests per day of each model that has any."""
    counts = [0] * len(trace.names)
    for model in trace.model:
        counts[model] += 1
    days = trace.horizon_us / US_PER_S / DAY_S
    return [count / days for count in counts if count]


def interarrival_cvs(trace: Trace) -> list[float]:
    """Variation coefficients of the gaps between arrivals, of models with enough gaps.

    What is below 0.02 counts as none: the published ones were measured in whole minutes.
    """
    gaps_us: list[array[int]] = [array("q") for _ in trace.names]
    last_us: dict[int, int] = {}
    for at_us, model in zip(trace.arrival_us, trace.model, strict=True):
        if model in last_us:
            gaps_us[model].append(at_us - last_us[model])
        last_us[model] = at_us
    found = []
    for gaps in gaps_us:
        if len(gaps) >= LEAST_GAPS:
            mean = sum(gaps) / len(gaps)
            deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
            cv = deviation / mean if mean else 0.0
            found.append(cv if cv >= _TIMER_CV else 0.0)
    return found
