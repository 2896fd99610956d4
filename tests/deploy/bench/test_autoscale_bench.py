"""The bench's frame, on traffic small enough for a test."""

import pytest

from pilotlight_autoscaler.simulation.regimes import adversarial_suite
from pilotlight_deploy.bench import autoscale
from pilotlight_deploy.bench.decide import DecideCost

IDS = [
    "autoscale.cost_ratio_mean",
    "autoscale.cost_ratio_worst",
    "autoscale.adversarial_worst",
    "autoscale.cold_vs_fixed600",
    "autoscale.wait_vs_lru",
    "autoscale.wait_vs_gdsf",
    "autoscale.decide_incremental_ms",
    "autoscale.decide_full_ms",
    "autoscale.sim_requests_per_s",
    "autoscale.sim_requests_per_s_cut",
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MODELS", "_POOL_MODELS", "_SPEED_MODELS"):
        monkeypatch.setattr(autoscale, name, 8)
    for name in ("_DAYS", "_EQUAL_HOURS_DAYS", "_POOL_DAYS", "_SPEED_DAYS"):
        monkeypatch.setattr(autoscale, name, 0.3)
    monkeypatch.setattr(autoscale, "REPORTING_SEEDS", (101,))
    monkeypatch.setattr(autoscale, "_POOL_WORKERS", 3)
    monkeypatch.setattr(autoscale, "_SPEED_RUNS", 1)
    monkeypatch.setattr(autoscale, "adversarial_suite", lambda seed: adversarial_suite(seed)[5:7])
    cost = DecideCost(10, 2, 2, incremental_ms=0.1, full_ms=1.0, quiet_us=9.0)
    monkeypatch.setattr(autoscale, "measure_decide", lambda: cost)


@pytest.mark.usefixtures("small")
def test_bench_reports_every_figure_and_both_sets_of_seeds() -> None:
    report = autoscale.run(lambda label, part: None)

    assert [figure.id for figure in report.figures] == IDS
    assert [figure.id for figure in report.figures if figure.goal is None] == IDS[-1:]
    assert report.cases[0]["tuning"] == list(range(1, 21))
    assert report.cases[0]["reporting"] == [101]


def test_bench_judges_on_seeds_that_nobody_tuned_on() -> None:
    assert not set(autoscale.TUNING_SEEDS) & set(autoscale.REPORTING_SEEDS)
