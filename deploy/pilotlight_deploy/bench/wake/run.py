"""`pilotlight bench wake`: starts from zero on a live platform, one by one and in a crowd."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pilotlight_autoscaler import AutoscalingConfig
from pilotlight_deploy.bench.report import BenchReport, Figure, make_report
from pilotlight_deploy.bench.wake.crowd_case import crowd_case, crowd_figures, measure_crowd
from pilotlight_deploy.bench.wake.fleet import (
    Advance,
    Fleet,
    deploy_fleet,
    deploys_case,
    write_sources,
)
from pilotlight_deploy.bench.wake.scale import Scale
from pilotlight_deploy.bench.wake.starts_case import measure_starts, starts_cases, starts_figures
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.free_port import free_port
from pilotlight_deploy.options import load
from pilotlight_platform.address import PlatformAddress
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.settings import Settings

_WORKERS = 2
_IDLE_TIMEOUT_S = 1.0  # in the first part; the crowd's models have the default
_MORE_REQUESTS = 1.5  # timelines kept, to those expected


def run(home: Path, *, models: int, seconds: float, on_progress: Advance) -> BenchReport:
    """A platform of its own, about 17 minutes at full size.

    Raises CliError if it cannot be measured, MachineError.
    """
    scale = scaled(models, seconds)
    home.mkdir(parents=True, exist_ok=True)
    # What is left over must not cost the report: a log may still be written while it goes.
    place = tempfile.TemporaryDirectory(prefix="bench-wake-", dir=home, ignore_cleanup_errors=True)
    with place as directory:
        on_progress("writing the checkpoints", 0.0)
        sources = write_sources(Path(directory) / "sources", scale.contents)
        settings = _settings(Path(directory) / "home", sources[0], scale)
        with _platform(settings, on_progress) as address:
            figures, cases = measure(address, sources, scale, on_progress)
    arguments = ["bench", "wake", "--models", str(models), "--seconds", f"{seconds:g}"]
    return make_report("wake", figures, cases, arguments=arguments)


def scaled(models: int, seconds: float) -> Scale:
    """The full scale with another number of models, a tenth of which have room."""
    full = Scale()
    return replace(
        full,
        models=models,
        contents=min(full.contents, models),
        room=max(_WORKERS, models * full.room // full.models),
        seconds=seconds,
    )


def measure(
    address: PlatformAddress, sources: Sequence[Path], scale: Scale, on_progress: Advance
) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Both parts, on a platform that runs and has no model at work."""
    with PlatformClient(address.url, None) as client:
        return asyncio.run(_measure(client, address, sources, scale, on_progress))


async def _measure(
    client: PlatformClient,
    address: PlatformAddress,
    sources: Sequence[Path],
    scale: Scale,
    on_progress: Advance,
) -> tuple[list[Figure], list[dict[str, Any]]]:
    # The client's calls block this loop, which has nothing else to do then.
    config = AutoscalingConfig(idle_timeout_s=_IDLE_TIMEOUT_S)
    fleet = await deploy_fleet(client, sources, scale, config, on_progress)
    starts = await measure_starts(client, fleet, scale, on_progress)
    crowd = await measure_crowd(client, address, fleet, scale, on_progress)
    cases = [
        {"case": "scale", **asdict(scale), "room": _room(client, fleet)},
        deploys_case(fleet),
        crowd_case(crowd, fleet),
        *starts_cases(starts),
    ]
    return [*starts_figures(starts), *crowd_figures(crowd)], cases


def _room(client: PlatformClient, fleet: Fleet) -> int:
    """Models that the workers can hold together."""
    largest = max(deployed.nbytes for deployed in fleet.deploys)
    return sum(worker.capacity_bytes // largest for worker in client.status().workers)


def _settings(home: Path, source: Path, scale: Scale) -> Settings:
    """Two workers of one thread, whose memory is the bound, not the number of models."""
    nbytes = (source / "model.safetensors").stat().st_size
    settings = load(
        home,
        host="127.0.0.1",
        port=free_port(),
        workers=_WORKERS,
        worker_threads=1,
        # Half a model more, for what the baked file has beyond its source.
        worker_capacity_bytes=int((scale.room // _WORKERS + 0.5) * nbytes),
        worker_max_replicas=scale.models,
        request_log_size=int(_MORE_REQUESTS * scale.seconds * scale.per_s) + 1000,
    )
    own = {"redis_url": None, "ray_address": None, "api_key": None, "pool": None}
    return settings.model_copy(update=own)


@contextmanager
def _platform(
    settings: Settings, on_progress: Callable[[str, float], None]
) -> Iterator[PlatformAddress]:
    address = start_detached(settings, lambda message: on_progress(message, 0.0))
    try:
        yield address
    finally:
        on_progress("stopping the platform", 0.0)
        stop_platform(settings.home)
