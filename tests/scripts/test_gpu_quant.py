"""scripts/gpu_quant, whole, on what there is without a GPU."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotlight_deploy.bench.report import BenchReport
from pilotlight_loader.quantize import cuda_products

torch.set_num_threads(1)

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUNS = 2
KINDS = ("int8", "int4", "fp8")


@pytest.fixture(scope="module")
def main():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("gpu_quant.__main__").main


@pytest.fixture(scope="module")
def shared_memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def run(main, tmp_path_factory, shared_memory):
    """Its exit status, its report, and the directories in which it worked."""

    def run_it(device: str, *more: str) -> tuple[int, dict[str, Any], list[Path]]:
        places = [tmp_path_factory.mktemp("disk"), shared_memory]
        out = tmp_path_factory.mktemp("out") / "report.json"
        given = ["--shape", "tiny", "--device", device, "--out", str(out), *more]
        given += ["--directory", str(places[0]), "--memory", str(places[1])]
        return main(given), json.loads(out.read_text()), places

    return run_it


@pytest.fixture(scope="module", params=["cpu", "simulated"])
def ran(run, request):
    return run(request.param, "--runs", str(RUNS))


def figures(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["id"]: figure for figure in report["figures"]}


def test_gpu_quant_reports_in_the_frame_of_every_bench(ran):
    status, report, _ = ran

    assert status == 0
    assert BenchReport.model_validate(report).bench == "gpu_quant"


@pytest.mark.parametrize(("kind", "goal"), [("int8", 0.25), ("int4", 0.25), ("fp8", None)])
def test_gpu_quant_measures_each_kind_beside_the_link(ran, kind, goal):
    _, report, _ = ran
    found = figures(report)
    first_token = found[f"gpu.quant.{kind}.arena_ttft_s"]

    assert (first_token["goal"], first_token["n"]) == (goal, RUNS)
    assert found[f"gpu.quant.{kind}.arena_last_byte_s"]["value"] > 0
    assert found[f"gpu.quant.{kind}.h2d_gb_per_s"]["n"] == RUNS
    assert found[f"gpu.quant.{kind}.logits_error"]["value"] == 0  # one way on a CPU


@pytest.mark.parametrize("kind", KINDS)
def test_gpu_quant_says_of_each_operator_how_right_it_is_or_why_it_is_refused(ran, kind):
    _, report, _ = ran
    cases = [case for case in report["cases"] if case.get("kind") == kind and "by" in case]

    assert {(case["rows"], case["by"]) for case in cases} >= {(1, "served"), (512, "bf16")}
    assert all("refused" in case or case["us"] > 0 for case in cases)
    assert all(case["error"] < 1e-2 for case in cases if case["by"] in ("served", "bf16"))


def test_gpu_quant_leaves_nothing_behind(ran):
    _, _, places = ran

    assert [list(place.iterdir()) for place in places] == [[], []]


def test_gpu_quant_fails_where_a_product_is_wrong(run, monkeypatch):
    right = cuda_products.byte_linear
    monkeypatch.setattr(cuda_products, "byte_linear", lambda *given: right(*given) * 1.05)
    status, report, _ = run("cpu", "--runs", "1", "--kinds", "int8")
    served = [case for case in report["cases"] if case.get("by") == "served"]

    assert status == 1
    assert any(case["error"] > 1e-2 for case in served)


def test_gpu_quant_begins_nothing_when_its_time_is_over(run):
    status, report, _ = run("cpu", "--budget-s", "0", "--kinds", "int4")

    assert status == 1
    assert "gpu.quant.int4.arena_ttft_s" not in figures(report)
