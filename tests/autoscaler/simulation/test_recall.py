"""A model that had to make room comes back before its next request, if that can be foretold."""

from collections.abc import Iterator

import pytest
from support.simulated import make_setting, make_trace

from pilotlight_autoscaler import Autoscaler, Decision, PoolConfig
from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.engine import Simulation
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace

DAY_S = 86_400.0
# Nothing leaves but for others: only they and the forecasts move anything.
KEPT = AutoscalingConfig.model_validate(
    {"max_ongoing_requests": 100, "keep_alive": {"min_s": 30 * DAY_S, "max_s": 30 * DAY_S}}
)


def in_turns() -> Iterator[tuple[float, str]]:
    """Two models every ten minutes, one 200 s behind the other."""
    for turn in range(40):
        yield 600.0 * turn + 1, "a"
        yield 600.0 * turn + 201, "b"


class Telling(Autoscaler):
    """Keeps its orders, without the texts of their reasons."""

    def __init__(self, *, words: bool) -> None:
        super().__init__(PoolConfig(max_workers=4), words=words)
        self.orders: list[tuple[float, str, str, str, tuple[str, ...]]] = []

    def decide(self, now_s: float) -> Decision:
        decision = super().decide(now_s)
        for each in decision.attach:
            self.orders.append((now_s, each.model, each.worker_id, each.reason.rule, each.evict))
        for gone in decision.detach:
            self.orders.append((now_s, gone.model, gone.worker_id, gone.reason.rule, ()))
        return decision


def test_evicted_models_are_recalled_in_time_for_a_rhythm() -> None:
    trace = make_trace(list(in_turns()), horizon_s=24_200)
    setting = make_setting(trace, pool=Pool(nodes=1), config=KEPT)

    meters = Simulation(trace, setting, Autoscaler(PoolConfig(max_workers=1))).run()

    assert meters.arrived == 80
    assert meters.cold <= 20 + 4  # until there are eight gaps of each
    assert meters.prewarm_hits >= 50


def test_recalls_that_were_for_nothing_count_against_forecasts() -> None:
    """Three more requests each, at another pace than the forty before."""
    slower = [(24_000 + 600.0 * n, "ab"[n % 2]) for n in range(6)]
    trace = make_trace([*in_turns(), *slower], horizon_s=30_000)
    setting = make_setting(trace, pool=Pool(nodes=1), config=KEPT)
    policy = Autoscaler(PoolConfig(max_workers=1))

    Simulation(trace, setting, policy).run()

    assert policy.view("a").learned.hit_rate < 0.7


@pytest.mark.parametrize("nodes", [4, 12])
def test_orders_are_the_same_without_words(nodes: int) -> None:
    trace = azure_trace(Traffic(models=12, days=0.5, seed=1, max_daily_requests=500))
    setting = make_setting(trace, pool=Pool(nodes=nodes))
    spoken, silent = Telling(words=True), Telling(words=False)

    Simulation(trace, setting, spoken).run()
    Simulation(trace, setting, silent).run()

    assert spoken.orders == silent.orders != []
