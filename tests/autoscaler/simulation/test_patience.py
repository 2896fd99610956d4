"""What need only be noted changes nothing: the same orders, asked for less often."""

from dataclasses import replace

from support.simulated import make_setting, make_trace

from pilotlight_autoscaler import Autoscaler, AutoscalingConfig, PoolConfig
from pilotlight_autoscaler.simulation.engine import Simulation
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace


class Impatient(Autoscaler):
    """Wants to be asked at every change."""

    def patience_s(self, model: str) -> float:
        return 0.0


def test_patience_changes_nothing_but_how_often_it_is_asked() -> None:
    trace = azure_trace(Traffic(models=20, days=0.5, seed=2, max_daily_requests=2000))
    setting = make_setting(trace)
    pool = PoolConfig(max_workers=20)

    patient = Simulation(trace, setting, Autoscaler(pool, words=False)).run()
    impatient = Simulation(trace, setting, Impatient(pool, words=False)).run()

    assert patient.decisions < 0.8 * impatient.decisions
    assert replace(patient, decisions=0) == replace(impatient, decisions=0)


def test_patience_ends_where_a_load_may_bring_another_replica() -> None:
    """Two and three at once in a replica meant for one: a second one starts."""
    requests = [(float(second), "a") for second in range(10, 200)]
    trace = make_trace(requests, horizon_s=300, service_s=2.5)
    config = AutoscalingConfig(
        max_replicas=2, max_ongoing_requests=10, target_ongoing_requests=1, min_replicas=1
    )
    setting = make_setting(trace, config=config, pool=Pool(nodes=2))

    meters = Simulation(trace, setting, Autoscaler(PoolConfig(max_workers=2))).run()

    assert meters.starts == 2
