"""`pilotlight simulate`: from a log to a table, JSON and a chart."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilotlight_deploy.cli import app
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.render.canvas import Canvas
from pilotlight_deploy.render.pareto import Point, pareto_front

RUNNER = CliRunner()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    rows = "".join(f"{100 * at},{'ab'[at % 2]},1.0\n" for at in range(1, 40))
    path.write_text("time,model,duration_s\n" + rows)
    return path


def test_simulate_prints_a_result_for_each_policy(log: Path) -> None:
    answer = RUNNER.invoke(app, ["simulate", str(log), "--policy", "fixed60", "--compare", "ski"])

    assert answer.exit_code == ExitCode.OK, answer.output
    assert [line.split()[0] for line in answer.stdout.splitlines()] == ["policy", "fixed60", "ski"]


def test_simulate_sweeps_a_setting_as_json(log: Path) -> None:
    sweep = ["--sweep", "idle_timeout_s=10,10m", "--cold-start", "2", "--json"]

    answer = RUNNER.invoke(app, ["simulate", str(log), *sweep])

    assert answer.exit_code == ExitCode.OK, answer.output
    found = json.loads(answer.stdout)
    short, long = found["results"]
    assert found["trace"]["requests"] == 39
    assert short["policy"] == "pilotlight idle_timeout_s=10"
    assert short["cold_requests"] == 39
    assert long["cold_requests"] == 2


def test_simulate_writes_a_chart(log: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    options = ["--policy", "fixed60", "--compare", "fixed600", "--plot", str(chart)]

    answer = RUNNER.invoke(app, ["simulate", str(log), *options])

    assert answer.exit_code == ExitCode.OK, answer.output
    assert chart.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], ExitCode.USAGE, "either a TRACE or --synthetic azure"),
        (["LOG", "--policy", "best"], ExitCode.BAD_INPUT, "no policy 'best'"),
        (["LOG", "--sweep", "speed=1"], ExitCode.USAGE, "--sweep speed"),
        (["LOG", "--sweep", "speed"], ExitCode.USAGE, "write PARAM=V1,V2"),
        (["LOG", "--sweep", "workers=none"], ExitCode.USAGE, "write 1 to 10000"),
        (["absent.csv"], ExitCode.BAD_INPUT, "absent.csv: No such file"),
        (["log.parquet"], ExitCode.BAD_INPUT, "no known kind of trace"),
    ],
)
def test_simulate_refuses(log: Path, arguments: list[str], code: ExitCode, message: str) -> None:
    given = [str(log) if each == "LOG" else each for each in arguments]

    answer = RUNNER.invoke(app, ["simulate", *given])

    assert answer.exit_code == code
    assert message in answer.output


def test_simulate_names_the_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"time": 1}\n{"time": "soon"}\n')

    answer = RUNNER.invoke(app, ["simulate", str(path)])

    assert answer.exit_code == ExitCode.BAD_INPUT
    assert "log.jsonl: line 2: time: 'soon'" in answer.output


def test_pareto_front_leaves_out_what_another_beats() -> None:
    best, beaten, cheap = Point("best", 2, 1), Point("beaten", 3, 2), Point("cheap", 1, 5)

    assert pareto_front([best, beaten, cheap]) == [cheap, best]


def test_canvas_writes_its_pixels(tmp_path: Path) -> None:
    canvas = Canvas(20, 10)
    canvas.disc(5, 5, 2, (10, 20, 30))

    canvas.write_png(tmp_path / "a.png")

    data = (tmp_path / "a.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (20, 10)
    length = struct.unpack(">I", data[33:37])[0]
    rows = zlib.decompress(data[41 : 41 + length])
    pixel = 5 * (1 + 60) + 1 + 15
    assert tuple(rows[pixel : pixel + 3]) == (10, 20, 30)
    assert tuple(rows[1:4]) == (255, 255, 255)
