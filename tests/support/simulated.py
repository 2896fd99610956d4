"""Small traces and settings for tests of the simulator."""

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.setting import Pool, Setting, SimulatedModel
from pilotlight_autoscaler.simulation.trace import US_PER_S, Trace, TraceBuilder

GB = 1_000_000_000


def make_trace(
    requests: list[tuple[float, str]], horizon_s: float, *, service_s: float = 1.0
) -> Trace:
    """Requests as (second, model); a tenth of the service is its first token."""
    builder = TraceBuilder()
    for at_s, model in requests:
        builder.add(round(at_s * US_PER_S), model, service_s / 10, service_s)
    return builder.build(round(horizon_s * US_PER_S))


def make_setting(
    trace: Trace, *, load_s: float = 4.0, pool: Pool | None = None, **about: object
) -> Setting:
    """Every model loads in *load_s* at 2 GB/s, alone on its link, without noise."""
    config = about.pop("config", AutoscalingConfig(max_ongoing_requests=100))
    models = tuple(
        SimulatedModel(name=name, nbytes=int(load_s * 2 * GB), config=config, cold_start_s=load_s)
        for name in trace.names
    )
    roomy = Pool(nodes=len(models))
    return Setting(models=models, pool=pool or roomy, load_noise=0.0, **about)
