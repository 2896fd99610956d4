"""The event loop: what waits, what it costs, and what it refuses."""

import pytest
from support.simulated import GB, make_setting, make_trace

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.decision import Attach, Decision, Detach, Reason, Rule
from pilotlight_autoscaler.simulation.baselines.keep_alive import Baseline
from pilotlight_autoscaler.simulation.baselines.rules import Fixed
from pilotlight_autoscaler.simulation.engine import Simulation
from pilotlight_autoscaler.simulation.errors import InvariantError, SettingError
from pilotlight_autoscaler.simulation.setting import Links, Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace

S = 1_000_000
REASON = Reason("a", Rule.LOAD, "")


class Ordering(Baseline):
    """Gives the orders of a test at the times of the test, beside those of a fixed keep-alive."""

    def __init__(self, orders: dict[float, Decision]) -> None:
        super().__init__(Fixed(1e6))
        self._orders = orders

    def decide(self, now_s: float) -> Decision:
        due = [at_s for at_s in self._orders if at_s <= now_s]
        if due:
            return self._orders.pop(due[0])
        decision = super().decide(now_s)
        wakes = [*self._orders, *([decision.wake_at_s] if decision.wake_at_s else [])]
        return Decision(decision.attach, decision.detach, wake_at_s=min(wakes, default=None))


def test_simulation_accounts_for_a_cold_and_a_warm_request() -> None:
    trace = make_trace([(10.0, "a"), (30.0, "a")], horizon_s=1000)

    meters = Simulation(trace, make_setting(trace), Baseline(Fixed(60.0))).run()

    assert (meters.arrived, meters.done, meters.cold, meters.starts) == (2, 2, 1, 1)
    assert meters.waited_us == 4 * S
    assert meters.loading_us == 4 * S
    assert meters.busy_us == 2 * S
    assert meters.idle_us == 15 * S + 60 * S  # 15 s to 30 s, and the keep-alive after 31 s
    assert sorted(meters.ttft_us) == [S // 10, 4 * S + S // 10]


def test_simulation_closes_its_accounts_at_the_horizon() -> None:
    trace = make_trace([(10.0, "a")], horizon_s=20)

    meters = Simulation(trace, make_setting(trace), Baseline(Fixed(600.0))).run()

    assert meters.idle_us == 5 * S
    assert meters.pool_us == 20 * S


def test_simulation_holds_requests_beyond_what_a_replica_takes() -> None:
    trace = make_trace([(10.0, "a"), (10.0, "a")], horizon_s=100)
    config = AutoscalingConfig(max_ongoing_requests=1)

    meters = Simulation(trace, make_setting(trace, config=config), Baseline(Fixed(60.0))).run()

    assert meters.waited_us == 4 * S + 5 * S


def test_simulation_shares_the_bandwidth_of_a_node() -> None:
    trace = make_trace([(10.0, "a"), (10.0, "b")], horizon_s=100)
    pool = Pool(nodes=1, workers_per_node=2)

    meters = Simulation(trace, make_setting(trace, pool=pool), Baseline(Fixed(60.0))).run()

    assert meters.waited_us == 2 * 8 * S


def test_simulation_loads_from_the_host_cache_the_second_time() -> None:
    trace = make_trace([(10.0, "a"), (50.0, "a")], horizon_s=100)
    pool = Pool(host_cache_bytes=10 * GB, on_disk=False, links=Links(remote_bytes_per_s=1e9))

    meters = Simulation(trace, make_setting(trace, pool=pool), Baseline(Fixed(5.0))).run()

    assert meters.waited_us == 8 * S + round(0.8 * S)  # 8 GB at 1 GB/s, then at 10 GB/s


def test_simulation_tells_a_policy_late_if_metrics_are() -> None:
    trace = make_trace([(10.0, "a")], horizon_s=100)

    meters = Simulation(
        trace, make_setting(trace, metric_delay_s=10.0), Baseline(Fixed(60.0))
    ).run()

    assert meters.waited_us == 14 * S


def test_simulation_is_deterministic() -> None:
    trace = azure_trace(Traffic(models=20, days=1, seed=5, max_daily_requests=300))
    setting = make_setting(trace)

    first = Simulation(trace, setting, Baseline(Fixed(60.0))).run()
    again = Simulation(trace, setting, Baseline(Fixed(60.0))).run()

    assert first == again


def test_simulation_refuses_to_stop_a_busy_replica() -> None:
    trace = make_trace([(10.0, "a")], horizon_s=100)
    stop = Decision(detach=(Detach("a", "a", "w0000", REASON),))

    with pytest.raises(InvariantError, match="a is stopped while it works"):
        Simulation(trace, make_setting(trace), Ordering({14.5: stop})).run()


def test_simulation_refuses_an_overfull_worker() -> None:
    trace = make_trace([(10.0, "a"), (11.0, "b")], horizon_s=100)
    attach = Decision(attach=(Attach("b", "b", "w0000", (), REASON),))

    with pytest.raises(InvariantError, match="w0000 has no slot for b"):
        Simulation(trace, make_setting(trace), Ordering({10.5: attach})).run()


def test_simulation_refuses_to_leave_a_request_behind() -> None:
    trace = make_trace([(10.0, "a"), (10.0, "b")], horizon_s=100)
    setting = make_setting(trace, pool=Pool(capacity_bytes=1 * GB))

    with pytest.raises(InvariantError, match="2 requests were never answered"):
        Simulation(trace, setting, Baseline(Fixed(60.0))).run()


def test_simulation_refuses_a_setting_of_other_models() -> None:
    trace, other = make_trace([(1.0, "a")], 10), make_trace([(1.0, "b")], 10)

    with pytest.raises(SettingError, match="models are not those of the trace"):
        Simulation(trace, make_setting(other), Baseline(Fixed(1.0)))
