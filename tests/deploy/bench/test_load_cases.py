"""The cases of `pilotlight bench load` from end to end, with a model of 4 MB. No times."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.link_cases import Link, LinkCases
from pilotlight_deploy.bench.load.local_cases import LocalCases, bench_arena
from pilotlight_deploy.bench.load.models import BenchModel, make_model
from pilotlight_deploy.bench.load.sharing_case import SharingCase
from pilotlight_deploy.bench.load.throttled_server import throttled


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(home: Path) -> BenchModel:
    return make_model(home, "tiny", lambda _line: None)


def test_in_turn_lets_each_side_be_first() -> None:
    assert [in_turn("ab", turn) for turn in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_local_cases_measure_every_side_in_every_turn(model: BenchModel) -> None:
    with bench_arena(model, model) as arena:
        cases = LocalCases(model, model, arena)
        cases.turn()
        cases.turn()
        cases.release()

    order = [case["case"] for case in cases.cases]
    assert order[:6] == ["mapped", "safetensors", "arena", "memcpy", "memcpy_huge", "attach"]
    assert order[6:] == order[5::-1]
    assert {figure.n for figure in cases.figures()} == {2}


def test_link_cases_say_whether_parts_were_read_twice(model: BenchModel) -> None:
    with throttled(model.path.parent, 1e9) as url:
        cases = LinkCases(Link("test", 1e9, model, f"{url}/{model.path.name}"))
        cases.turn()
        cases.turn()
        cases.release()

    kinds = [case["case"].rpartition("_")[2] for case in cases.cases]
    assert kinds == ["gated", "ungated", "ungated", "gated"]
    assert all(case["hedges"] >= 0 and case["retries"] >= 0 for case in cases.cases)


def test_second_worker_reads_no_remote_byte(model: BenchModel, home: Path) -> None:
    with throttled(model.path.parent, 1e9) as url:
        case = SharingCase(model, f"{url}/{model.path.name}", home)
        case.turn()

    assert case.cases[0]["second_remote_bytes"] == 0
    assert case.cases[0]["first_remote_bytes"] > 0
