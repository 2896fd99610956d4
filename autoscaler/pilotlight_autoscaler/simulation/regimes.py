"""Traffic of one model that is hard to keep warm at the right times: the adversarial suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from pilotlight_autoscaler.simulation.published import DAY_S
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace, TraceBuilder

MODEL = "model-0000"
_SERVICE_S = 2.0
_FIRST_S = 0.1
_WEIGHT = 30.0  # the gaps around the break-even are drawn for this one


@dataclass(frozen=True, slots=True)
class Regime:
    """One trace of the suite; *adaptive*: further requests are sent when a replica stops."""

    name: str
    trace: Trace
    cold_start_s: float = 8.0
    adaptive: bool = False


class StopAdversary:
    """Asks again as soon as the replica has gone, as often as *requests*."""

    def __init__(self, requests: int = 500, after_s: float = 1.0) -> None:
        self._left = requests
        self._after_us = round(after_s * US_PER_S)

    def stopped(self, model: int, now_us: int) -> Iterable[tuple[int, int, int]]:
        if self._left:
            self._left -= 1
            lengths_us = (round(_FIRST_S * US_PER_S), round(_SERVICE_S * US_PER_S))
            yield (now_us + self._after_us, *lengths_us)


def adversarial_suite(seed: int) -> list[Regime]:
    """27 traces; the same for the same seed."""
    suite = [
        Regime(name, _trace(times_s(Random(f"{name}/{seed}"))))
        for name, times_s in _REGIMES.items()
    ]
    for period_s in (60, 300, 1800, 3600, 14_400, 86_400):
        times_s = _timer(Random(f"timer/{period_s}/{seed}"), float(period_s), jitter_s=1.0)
        suite.append(Regime(f"timer-{period_s}s", _trace(times_s)))
    for cold_start_s in (2.0, 8.0, 30.0):
        start = _trace([60.0])
        suite.append(Regime(f"adaptive-{cold_start_s:g}s", start, cold_start_s, adaptive=True))
    return suite


def _trace(times_s: Iterable[float], days: float = 7.0) -> Trace:
    builder = TraceBuilder()
    builder.model_index(MODEL)
    for at_s in times_s:
        if 0 <= at_s < days * DAY_S:
            builder.add(round(at_s * US_PER_S), MODEL, _FIRST_S, _SERVICE_S)
    return builder.build(round(days * DAY_S * US_PER_S))


def _poisson(random: Random, per_s: float, since_s: float, until_s: float) -> Iterator[float]:
    at_s = since_s + random.expovariate(per_s)
    while at_s < until_s:
        yield at_s
        at_s += random.expovariate(per_s)


def _timer(random: Random, period_s: float, jitter_s: float) -> Iterator[float]:
    at_s = random.uniform(0, period_s)
    while at_s < 7 * DAY_S:
        yield at_s + random.uniform(-jitter_s, jitter_s)
        at_s += period_s


def _gaps(draw: Callable[[int], float]) -> Iterator[float]:
    """Requests with these gaps between the end of one and the next."""
    at_s, count = 60.0, 0
    while at_s < 7 * DAY_S:
        yield at_s
        at_s += _SERVICE_S + max(0.1, draw(count))
        count += 1


def _launch(random: Random) -> Iterator[float]:
    return _poisson(random, 0.5, 3 * DAY_S, 5 * DAY_S)


def _death(random: Random) -> Iterator[float]:
    return _poisson(random, 0.5, 0, 2 * DAY_S)


def _weekly_batch(random: Random) -> Iterator[float]:
    return _poisson(random, 1000 / 3600, 2 * DAY_S, 2 * DAY_S + 3600)


def _nightly_batch(random: Random) -> Iterator[float]:
    for day in range(7):
        begin_s = day * DAY_S + 7200
        yield from _poisson(random, 500 / 600, begin_s, begin_s + 600)


def _flash_crowd(random: Random) -> Iterator[float]:
    """A request a minute, and fifty times that for ten minutes from one second to the next."""
    yield from _poisson(random, 1 / 60, 0, 7 * DAY_S)
    for _ in range(5):
        begin_s = random.uniform(0.2, 6.8) * DAY_S
        yield from _poisson(random, 50 / 60, begin_s, begin_s + 600)


def _flash_from_zero(random: Random) -> Iterator[float]:
    """A few requests a day, and now and then fifty within five seconds."""
    yield from _poisson(random, 4 / DAY_S, 0, 7 * DAY_S)
    for _ in range(7):
        begin_s = random.uniform(0, 7) * DAY_S
        yield from (begin_s + random.uniform(0, 5) for _ in range(50))


def _pareto(random: Random) -> Iterator[float]:
    return _gaps(lambda _: 20 * random.paretovariate(1.1))


def _two_kinds(random: Random) -> Iterator[float]:
    return _gaps(lambda at: 10.0 if at % 2 else 3600.0)


def _above_break_even(random: Random) -> Iterator[float]:
    return _gaps(lambda _: 1.02 * 8 * (1 + _WEIGHT))


def _below_break_even(random: Random) -> Iterator[float]:
    return _gaps(lambda _: 0.98 * 8 * (1 + _WEIGHT))


def _around_break_even(random: Random) -> Iterator[float]:
    return _gaps(lambda _: random.uniform(0.5, 2) * 8 * (1 + _WEIGHT))


def _changing(random: Random) -> Iterator[float]:
    """A timer of five minutes one day, a request an hour the next."""
    for day in range(7):
        begin_s = day * DAY_S
        if day % 2:
            yield from _poisson(random, 1 / 3600, begin_s, begin_s + DAY_S)
        else:
            yield from (begin_s + tick * 300.0 for tick in range(288))


def _doubling(random: Random) -> Iterator[float]:
    return _gaps(lambda at: 2.0 ** (at % 15))


def _fading(random: Random) -> Iterator[float]:
    for half_day in range(14):
        begin_s = half_day * DAY_S / 2
        yield from _poisson(random, 0.1 / 2**half_day, begin_s, begin_s + DAY_S / 2)


def _on_off(random: Random) -> Iterator[float]:
    at_s = 0.0
    while at_s < 7 * DAY_S:
        on_s = random.expovariate(1 / 300)
        yield from _poisson(random, 0.5, at_s, at_s + on_s)
        at_s += on_s + random.expovariate(1 / 1800)


def _skipping_timer(random: Random) -> Iterator[float]:
    return (at_s for at_s in _timer(random, 3600, 1.0) if random.random() < 0.5)


def _ragged_timer(random: Random) -> Iterator[float]:
    return _timer(random, 1800, 360)


def _working_hours(random: Random) -> Iterator[float]:
    for day in range(5):
        begin_s = day * DAY_S + 9 * 3600
        yield from _poisson(random, 1 / 120, begin_s, begin_s + 8 * 3600)


_REGIMES: dict[str, Callable[[Random], Iterator[float]]] = {
    "launch": _launch,
    "death": _death,
    "weekly-batch": _weekly_batch,
    "nightly-batch": _nightly_batch,
    "flash-crowd": _flash_crowd,
    "flash-from-zero": _flash_from_zero,
    "pareto": _pareto,
    "two-kinds": _two_kinds,
    "above-break-even": _above_break_even,
    "below-break-even": _below_break_even,
    "around-break-even": _around_break_even,
    "changing": _changing,
    "doubling": _doubling,
    "fading": _fading,
    "on-off": _on_off,
    "skipping-timer": _skipping_timer,
    "ragged-timer": _ragged_timer,
    "working-hours": _working_hours,
}
