"""Bench reports as JSON and as a table."""

import io
import json

import pytest
from pydantic import ValidationError
from rich.console import Console

from pilotlight_deploy.bench.report import figure, make_report, report_table


@pytest.fixture
def report():
    figures = (
        figure("cold_ttft", [0.2, 0.3, 0.21], "s", goal=0.25),
        figure("speedup", [50.0], "x", better="higher", goal=60.0),
        figure("plain", [1.0, 2.0], "s"),
    )
    return make_report("cold", figures, [{"side": "a", "runs": [1]}], arguments=["bench", "cold"])


def test_report_is_one_json_object(report):
    value = json.loads(report.model_dump_json())

    assert set(value) == {
        "bench", "at", "machine", "versions", "command", "figures", "cases",
    }  # fmt: skip
    assert set(value["machine"]) == {"cpu", "cores", "memory_bytes", "kernel", "gpu"}
    assert set(value["versions"]) >= {"pilotlight", "python", "torch", "ray", "transformers"}
    assert value["command"] == "pilotlight bench cold"
    assert value["figures"][0] == {
        "id": "cold_ttft",
        "value": 0.21,
        "unit": "s",
        "goal": 0.25,
        "better": "lower",
        "min": 0.2,
        "max": 0.3,
        "n": 3,
    }


def test_goals_are_met_in_their_direction(report):
    assert [item.met for item in report.figures] == [True, False, None]


def test_table_shows_goals(report):
    console = Console(width=120, file=io.StringIO())
    console.print(report_table(report))
    rows = [line.split() for line in console.file.getvalue().splitlines()]

    assert rows[1][-4:] == ["≤", "0.25", "s", "met"]
    assert rows[2][-4:] == ["≥", "60", "x", "missed"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figure_must_be_finite(value):
    with pytest.raises(ValidationError):
        figure("x", [value], "s")


def test_figure_needs_samples():
    with pytest.raises(ValueError, match="no samples"):
        figure("x", [], "s")
