"""The simulator drives production's policy, so it obeys a model file's settings, too."""

from support.simulated import make_setting, make_trace

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.engine import Simulation
from pilotlight_autoscaler.simulation.meters import Meters
from pilotlight_autoscaler.simulation.policies import make_policy
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.trace import Trace

S = 1_000_000
# A first request, and when its replica is ready many more; each runs for 30 s.
CROWD = make_trace(
    [(10.0, "a"), *((20.0 + n, "a") for n in range(11))], horizon_s=200, service_s=30.0
)


def simulate(trace: Trace, policy: str = "pilotlight", **config: object) -> Meters:
    """On four nodes with a worker each; a start takes 4 s."""
    found = AutoscalingConfig.model_validate({"max_ongoing_requests": 1, **config})
    setting = make_setting(trace, config=found, pool=Pool(nodes=4))
    return Simulation(trace, setting, make_policy(policy, trace, setting)).run()


def test_simulation_starts_a_replica_at_the_deploy() -> None:
    trace = make_trace([(50.0, "a")], horizon_s=100)

    assert simulate(trace).cold == 1
    warm = simulate(trace, prewarm={"on_deploy": True})
    assert (warm.cold, warm.starts, warm.loading_us) == (0, 1, 4 * S)


def test_simulation_of_another_policy_starts_nothing_at_the_deploy() -> None:
    trace = make_trace([(50.0, "a")], horizon_s=100)

    assert simulate(trace, "fixed60", prewarm={"on_deploy": True}).cold == 1


def test_simulation_delays_what_is_not_from_zero() -> None:
    at_once = simulate(CROWD, max_replicas=4)
    delayed = simulate(CROWD, max_replicas=4, upscale_delay_s=60)
    for_ever = simulate(CROWD, max_replicas=4, upscale_delay_s=3600)

    assert at_once.starts == 4
    assert at_once.waited_us < delayed.waited_us < for_ever.waited_us
    first = simulate(make_trace([(10.0, "a")], 100), max_replicas=4, upscale_delay_s=60)
    assert first.waited_us == 4 * S


def test_simulation_scales_the_step() -> None:
    few = simulate(CROWD, max_replicas=4, upscaling_factor=0.1)

    assert few.waited_us > simulate(CROWD, max_replicas=4).waited_us
