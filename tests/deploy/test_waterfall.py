"""The waterfall as text."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from pilotlight_deploy.render.waterfall import headline, summary, waterfall
from pilotlight_platform.schemas.timeline import Timeline


@pytest.fixture
def line(timeline) -> Timeline:
    return TypeAdapter(Timeline).validate_python(timeline)


def test_bars_stand_on_one_axis(line):
    bars = [row[13:33] for row in waterfall(line, width=87).plain.splitlines()[1:]]

    assert bars == [  # 10 ms a column
        "▏                   ",
        "▏                   ",
        "█                   ",
        "  █████████████████ ",
        "                   █",
    ]


def test_every_span_up_to_the_first_token_has_a_line(line):
    names = [row.split()[0] for row in waterfall(line).plain.splitlines()[1:]]

    assert names == ["admit", "place", "attach", "prefill", "first_token"]


def test_bytes_come_with_rate_tier_and_floor(line):
    attach = waterfall(line).plain.splitlines()[3]

    assert attach.endswith("10 ms  746 MB 74.6 GB/s, from host, floor 2.0 ms")


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_lines_fit_the_width(line, width):
    rows = waterfall(line, width).plain.splitlines()[1:]

    assert max(map(len, rows)) <= max(width, 80)


def test_span_outside_the_axis_is_clipped(line):
    late = replace(line.spans[3], start_s=99.0, end_s=300.0)
    rows = waterfall(replace(line, spans=(late,)), 80).plain.splitlines()

    assert rows[1].count("█") == 80 - 12 - 9 - 3 - 2


def test_summary_is_one_line(line):
    assert summary(line) == "cold start 200 ms: place 1.6 ms, attach 10 ms, prefill 170 ms"
    assert summary(replace(line, cold=False, spans=())) == "warm, first token after 200 ms"


def test_request_without_a_token_says_why(line):
    failed = replace(line, ttft_s=None, error="busy\x1b[2J", spans=())

    assert headline(failed) == "no token: busy�[2J"
    assert waterfall(failed).plain == "no token: busy�[2J · model chat"
