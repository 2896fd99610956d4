"""Progress on what is not a terminal."""

import io

from rich.console import Console

from pilotlight_deploy.render.progress import PlainDeploy, waiting
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


def test_waiting_writes_plain_lines():
    console = Console(file=io.StringIO(), width=40)

    with waiting(console, "starting") as update:
        update("starting Ray")

    assert console.file.getvalue() == "starting\nstarting Ray\n"
