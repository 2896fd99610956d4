"""The parts of `pilotlight bench wake` that a wrong figure could come from."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pilotlight_deploy.bench.report import percentile, percentile_figure
from pilotlight_deploy.bench.wake.asking import Asked, ask, connect
from pilotlight_deploy.bench.wake.crowd_case import lost_of
from pilotlight_deploy.bench.wake.fleet import Fleet, check_answers, write_sources
from pilotlight_deploy.bench.wake.run import scaled
from pilotlight_deploy.bench.wake.traffic import poisson_zipf
from pilotlight_deploy.bench.wake.usage import UsageWatch
from pilotlight_deploy.errors import CliError

MODELS = [f"m{number}" for number in range(50)]
TRAFFIC = {"seconds": 1000.0, "per_s": 20.0, "exponent": 1.0}


def test_traffic_comes_as_often_as_it_says_and_not_in_step() -> None:
    arrivals = poisson_zipf(MODELS, **TRAFFIC, seed=1)
    gaps = [b.at_s - a.at_s for a, b in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    assert min(gaps) >= 0.0
    assert deviation == pytest.approx(mean, rel=0.05)  # exponential
    assert arrivals[-1].at_s < 1000.0


def test_traffic_prefers_models_by_rank() -> None:
    counts = Counter(arrival.model for arrival in poisson_zipf(MODELS, **TRAFFIC, seed=2))
    ranked = [count for _, count in counts.most_common()]
    harmonic = sum(1 / rank for rank in range(1, 51))

    assert ranked[0] / sum(ranked) == pytest.approx(1 / harmonic, rel=0.1)
    assert ranked[0] / ranked[3] == pytest.approx(4.0, rel=0.2)


def test_traffic_is_that_of_its_seed() -> None:
    assert poisson_zipf(MODELS, **TRAFFIC, seed=3) == poisson_zipf(MODELS, **TRAFFIC, seed=3)
    assert poisson_zipf(MODELS, **TRAFFIC, seed=3) != poisson_zipf(MODELS, **TRAFFIC, seed=4)


def test_percentile_is_one_of_the_samples() -> None:
    samples = [float(value) for value in range(200, 0, -1)]

    assert [percentile(samples, percent) for percent in (50, 95, 99, 100)] == [100, 190, 198, 200]
    assert percentile([7.0], 99) == 7.0
    assert percentile_figure("x", samples, 99, "ms").value == 198.0


def asked(model: str, text: str, problem: str | None = None) -> Asked:
    return Asked(model, "id", 0.0, 0.0, 0.1, text, placed=False, problem=problem)


def test_lost_are_those_without_their_own_models_answer() -> None:
    fleet = Fleet((), {"a": "one", "b": "two"})
    sent = [
        asked("a", "one"),
        asked("a", "two"),
        asked("b", "on"),
        asked("b", "two", "503: attach_failed"),
    ]

    assert [why for _, why in lost_of(sent, fleet)] == [
        "another model's answer",
        "no model's answer",
        "503: attach_failed",
    ]


def test_fleet_whose_contents_answer_alike_is_refused() -> None:
    check_answers(["one", "two", "one", "two"], contents=2)
    with pytest.raises(CliError, match="answer alike"):
        check_answers(["one", "one"], contents=2)
    with pytest.raises(CliError, match="differently"):
        check_answers(["one", "two", "three", "two"], contents=2)


def test_sources_have_weights_of_their_own(tmp_path: Path) -> None:
    first, second = (
        load_file(source / "model.safetensors") for source in write_sources(tmp_path, 2)
    )

    assert first.keys() == second.keys()
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_latency_counts_from_when_the_request_was_due() -> None:
    async def run() -> Asked:
        async with connect("http://127.0.0.1:1") as http:
            return await ask(http, "m", time.monotonic() - 3.0)

    refused = asyncio.run(run())

    assert refused.late_s >= 3.0
    assert refused.ttft_s is None
    assert refused.problem is not None
    assert refused.problem.startswith("ConnectError")


def test_usage_counts_this_process() -> None:
    watch = UsageWatch(os.getpid(), [os.getpid()])
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    watch.sample()
    del block
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    usage = watch.usage()

    first, peak, _ = usage.rss_bytes[os.getpid()]
    assert peak - first > 32 << 20
    assert 0.0 < usage.client_busy <= 1.0
    assert usage.platform_busy == pytest.approx(usage.client_busy, rel=0.2)


def test_scale_has_room_for_a_tenth() -> None:
    assert scaled(200, 600.0).room == 20
    assert scaled(40, 10.0).room == 4
    assert scaled(20, 10.0).contents == 20
