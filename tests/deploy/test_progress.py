"""Progress on what is not a terminal."""

import io

from rich.console import Console

from pilotlight_deploy.render.progress import (
    PlainAdvance,
    PlainDeploy,
    PlainTransfer,
    transferring,
    waiting,
)
from pilotlight_platform.schemas.model import DeployProgress


def step(phase, message, done=0):
    return DeployProgress(phase=phase, message=message, done_bytes=done, total_bytes=4_000_000)


def test_a_line_per_phase_and_second():
    lines, times = [], iter([0.0, 0.5, 1.1, 1.2])
    view = PlainDeploy(lines.append, clock=lambda: next(times))

    view.show(step("bake", "weights", 0))
    view.show(step("bake", "weights", 1_000_000))  # 0.5 s after the last: not told
    view.show(step("bake", "weights", 2_000_000))
    view.show(step("verify", "answers", 0))

    assert lines == [
        "bake: weights (0 B of 4 MB)",
        "bake: weights (2 MB of 4 MB)",
        "verify: answers (0 B of 4 MB)",
    ]


def test_advance_tells_what_begins_and_then_now_and_then():
    lines, times = [], iter([0.0, 1.0, 6.0, 6.1])
    view = PlainAdvance(lines.append, clock=lambda: next(times))

    view.show("seed 1", 0.0)
    view.show("seed 1", 0.2)  # 1 s after the last: not told
    view.show("seed 1", 0.5)
    view.show("seed 2", 0.0)

    assert lines == ["seed 1", "seed 1: 50%", "seed 2"]


def test_waiting_writes_plain_lines():
    console = Console(file=io.StringIO(), width=40)

    with waiting(console, "starting") as update:
        update("starting Ray")

    assert console.file.getvalue() == "starting\nstarting Ray\n"


def test_transfer_tells_rate_and_time_left():
    lines, times = [], iter([0.0, 0.0, 0.5, 0.5, 2.0, 2.0])
    clock = lambda: next(times)  # noqa: E731
    view = PlainTransfer(lines.append, clock=clock)

    view.show("pulling a", 1_000_000_000, 4_000_000_000)  # was there: not part of the rate
    view.show("pulling a", 1_500_000_000, 4_000_000_000)  # 0.5 s after the last: not told
    view.show("pulling a", 2_000_000_000, 4_000_000_000)

    assert lines == [
        "pulling a: 1 GB of 4 GB",
        "pulling a: 2 GB of 4 GB, 0.5 GB/s, 4.00 s left",
    ]


def test_transfer_on_what_is_no_terminal_writes_plain_lines():
    console = Console(file=io.StringIO(), width=40)

    with transferring(console) as show:
        show("pulling a", 0, 10)
        show("pulling b", 10, 10)

    assert console.file.getvalue() == "pulling a: 0 B of 10 B\npulling b: 10 B of 10 B\n"
