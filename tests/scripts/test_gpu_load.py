"""scripts/gpu_load, whole, on what there is without a GPU: what it measures, and what it leaves."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotlight_deploy.bench.report import BenchReport

torch.set_num_threads(1)

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUNS = 2
TIERS = ("arena", "tmpfs", "page_cache", "disk")


@pytest.fixture(scope="module")
def main():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("gpu_load.__main__").main


@pytest.fixture(scope="module")
def run(main, tmp_path_factory) -> Callable[..., tuple[int, dict[str, Any], Path]]:
    """Its exit status, its report, and the directory in which it worked."""

    def run_it(device: str, *more: str) -> tuple[int, dict[str, Any], Path]:
        directory = tmp_path_factory.mktemp("disk")
        out = tmp_path_factory.mktemp("out") / "report.json"
        given = ["--shape", "tiny", "--device", device, "--directory", str(directory), *more]
        return main([*given, "--out", str(out)]), json.loads(out.read_text()), directory

    return run_it


@pytest.fixture(scope="module", params=["cpu", "simulated"])
def ran(run, request):
    return run(request.param, "--runs", str(RUNS))


def figures(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["id"]: figure for figure in report["figures"]}


def left_out(report: dict[str, Any]) -> dict[str, str]:
    return {case["case"]: case["left_out"] for case in report["cases"] if "left_out" in case}


def test_gpu_load_reports_in_the_frame_of_every_bench(ran):
    _, report, _ = ran

    assert BenchReport.model_validate(report).bench == "gpu_load"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("figure", "case"), [("last_byte", "last byte"), ("ttft", "first token")])
def test_gpu_load_measures_a_tier_or_says_why_not(ran, tier, figure, case):
    _, report, _ = ran
    found = figures(report).get(f"gpu.{tier}_{figure}_s")

    if found is None:  # a file system that keeps its pages
        assert "stay in the page cache" in left_out(report)[f"{tier} to the {case}"]
    else:
        assert found["n"] == RUNS
        assert 0 < found["min"] <= found["value"] <= found["max"]


def test_gpu_load_compares_the_arena_with_the_link(ran):
    _, report, _ = ran
    found = figures(report)["gpu.arena_ttft_vs_h2d"]

    assert (found["goal"], found["better"], found["n"]) == (1.15, "lower", RUNS)


@pytest.mark.parametrize("peer", ["load_file", "transformers"])
def test_gpu_load_compares_itself_with_others(ran, peer):
    _, report, _ = ran
    found = figures(report)
    ratio = found[f"gpu.vs_{peer}"]

    assert (ratio["goal"], ratio["better"], ratio["n"]) == (1.0, "higher", RUNS)
    assert found[f"gpu.{peer}_last_byte_s"]["value"] < found[f"gpu.{peer}_ttft_s"]["value"]


def test_gpu_load_gets_one_answer_from_all(ran):
    _, report, _ = ran
    tokens = {case["first_token"] for case in report["cases"] if "first_token" in case}

    assert len(tokens) == 1


def test_gpu_load_leaves_nothing_behind(ran):
    _, _, directory = ran

    assert list(directory.iterdir()) == []


def test_gpu_load_names_no_tier_that_it_could_not_verify(run):
    status, report, _ = run("cpu", "--runs", "1", "--directory", "/dev/shm")

    assert status == 1
    assert "gpu.disk_ttft_s" not in figures(report)
    assert "stay in the page cache" in left_out(report)["disk to the first token"]


def test_gpu_load_begins_nothing_when_its_time_is_over(run):
    status, report, _ = run("cpu", "--budget-s", "0")

    assert status == 1
    assert report["figures"] == []
