"""`pilotlight bench wake` in small, on the platform that the other tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.running_platform import RunningPlatform

from pilotlight_deploy.bench.report import BenchReport, make_report
from pilotlight_deploy.bench.wake.fleet import write_sources
from pilotlight_deploy.bench.wake.run import measure
from pilotlight_deploy.bench.wake.scale import SEED, Scale
from pilotlight_platform.address import read_address

pytestmark = pytest.mark.system

# More models than the two workers hold, which is two each.
SMALL = Scale(
    models=6,
    contents=2,
    rounds=2,
    round_starts=3,
    quiet_s=0.2,
    spacing_min_s=0.05,
    spacing_max_s=0.1,
    seconds=3.0,
    per_s=10.0,
    seed=SEED + 1,
)


@pytest.fixture(scope="module")
def report(
    platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BenchReport]:
    address = read_address(platform.settings.home)
    assert address is not None
    for name in names(platform):  # of other tests: their replicas would hold room
        platform.http.delete(f"/api/models/{name}")
    sources = write_sources(tmp_path_factory.mktemp("wake"), SMALL.contents)
    figures, cases = measure(address, sources, SMALL, lambda label, part: None)
    yield make_report("wake", figures, cases, arguments=["bench", "wake"])
    for name in names(platform):
        platform.http.delete(f"/api/models/{name}")


def names(platform: RunningPlatform) -> list[str]:
    return [model["name"] for model in platform.http.get("/api/models").json()["models"]]


def value(report: BenchReport, name: str) -> float:
    return next(each.value for each in report.figures if each.id == name)


def test_wake_bench_loses_no_request_of_the_crowd(report: BenchReport) -> None:
    crowd = next(case for case in report.cases if case["case"] == "crowd")

    assert crowd["lost"] == []
    assert value(report, "wake.crowd_lost") == 0.0
    assert value(report, "wake.crowd_requests") == crowd["requests"] > SMALL.seconds
    assert value(report, "wake.crowd_evictions") > 0
    assert 0.0 < value(report, "wake.crowd_cold_share") <= 1.0


def test_wake_bench_tells_the_first_start_after_quiet_apart(report: BenchReport) -> None:
    kinds = [case["case"] for case in report.cases]

    assert kinds.count("first_after_quiet") == SMALL.rounds
    assert kinds.count("start") == SMALL.rounds * (SMALL.round_starts - 1)
    begins = next(each for each in report.figures if each.id == "wake.attach_begins_p99_ms")
    assert begins.n == SMALL.rounds * SMALL.round_starts
    assert 0.0 < begins.min <= begins.value <= begins.max
    assert begins.goal == 50.0


def test_wake_bench_says_how_large_it_was(report: BenchReport) -> None:
    scale = next(case for case in report.cases if case["case"] == "scale")

    assert {key: scale[key] for key in ("models", "seed")} == {"models": 6, "seed": SEED + 1}
