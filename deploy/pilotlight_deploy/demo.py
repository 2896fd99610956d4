"""The demo: a model lights from zero, answers warm, goes out, and lights again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pilotlight_deploy.answer import Answer
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.conversation import Conversation
from pilotlight_deploy.deploying import deploy_model
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.free_port import free_port
from pilotlight_deploy.options import load
from pilotlight_deploy.output import printable
from pilotlight_deploy.render.progress import waiting
from pilotlight_deploy.render.tables import deployed, runs_table
from pilotlight_deploy.render.units import duration
from pilotlight_deploy.render.waterfall import summary, waterfall
from pilotlight_deploy.sample import TRAINED
from pilotlight_platform.address import PlatformAddress, read_address
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.schemas.model import ModelSpec
from pilotlight_platform.schemas.timeline import Timeline
from pilotlight_platform.settings import Settings

MODEL = "sample"
# The sample continues code. What it adds to this is tested to be Python.
# (It ends before a line's end: a newline and the indentation after it are one token.)
PROMPT = 'def read_lines(path):\n    """Return the lines of a file."""'
MAX_TOKENS = 25  # the function, and no more
_IDLE_TIMEOUT_S = 3.0
_ZERO_TIMEOUT_S = 60.0
_ZERO_STEP_S = 0.1
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One request of the demo."""

    label: str
    answer: Answer
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What `pilotlight demo --json` prints."""

    url: str
    model: str
    requests: tuple[DemoRequest, ...]
    same_answer: bool  # the likeliest tokens, cold and warm
    total_s: float
    kept: bool


def run_demo(console: Console, home: Path, *, keep: bool) -> DemoResult:
    """Run the demo in *home*, telling *console*; the platform is stopped however it ends.

    Raises MachineError if no platform can start here, CliError if a step fails.
    """
    began_s = time.monotonic()
    settings = _settings(home)
    with _platform(console, settings, keep=keep) as address:
        with PlatformClient(address.url, settings.api_key) as client:
            _deploy_sample(console, client)
            requests = _requests(console, client)
        console.print()
        console.print(runs_table([(run.label, run.timeline) for run in requests]))
        same_answer = len({run.answer.text for run in requests}) == 1
        console.print(("the same answer" if same_answer else "different answers") + " each time")
    _print_next_steps(console, home, keep=keep)
    total_s = time.monotonic() - began_s
    return DemoResult(address.url, MODEL, requests, same_answer, total_s, keep)


def _settings(home: Path) -> Settings:
    """A platform of its own: the user's Redis or Ray is not touched."""
    settings = load(home, host="127.0.0.1", port=free_port(), workers=1)
    return settings.model_copy(update={"redis_url": None, "ray_address": None})


@contextmanager
def _platform(console: Console, settings: Settings, *, keep: bool) -> Iterator[PlatformAddress]:
    """A running platform; stopped at the end, also by Ctrl-C or SIGTERM, unless kept."""
    running = read_address(settings.home)
    if running is not None:
        raise CliError(
            f"a demo's platform is running at {running.url}",
            ExitCode.MACHINE_UNFIT,
            f"stop it with `pilotlight down --home {settings.home}`",
        )

    _say(console, "Starting a platform on this machine")
    finished = False
    with _interrupted_by_sigterm():
        try:
            with waiting(console, "starting") as update:
                address = start_detached(settings, update)
            console.print(f"it answers at {address.url}, workers warm, no model loaded")
            yield address
            finished = True
        finally:
            if not (keep and finished) and read_address(settings.home) is not None:
                with waiting(console, "stopping the platform"), _uninterrupted():
                    stop_platform(settings.home, _STOP_TIMEOUT_S)


def _deploy_sample(console: Console, client: PlatformClient) -> None:
    _say(console, "Deploying a sample model, trained on Python's standard library")
    spec = ModelSpec.model_validate(
        {
            "name": MODEL,
            "source": str(TRAINED),
            "autoscaling": {"idle_timeout_s": _IDLE_TIMEOUT_S},
        }
    )
    console.print(deployed(deploy_model(client, spec, console)))


def _requests(console: Console, client: PlatformClient) -> tuple[DemoRequest, ...]:
    _wait_until_zero(console, client)
    _say(console, "A first request; the model is at zero")
    first = _ask(console, client, "cold")
    console.print(waterfall(first.timeline, width=min(100, console.width)))
    _say(console, "The same request, warm")
    second = _ask(console, client, "warm")
    console.print(summary(second.timeline), style="bold")
    _say(console, f"Idle for {_IDLE_TIMEOUT_S:g} s: the model goes out")
    _wait_until_zero(console, client)
    _say(console, "And from zero again")
    third = _ask(console, client, "cold again")
    console.print(summary(third.timeline), style="bold")
    return first, second, third


def _ask(console: Console, client: PlatformClient, label: str) -> DemoRequest:
    """One chat request, its answer streamed to *console* as it comes."""
    console.print(Text(PROMPT, style="dim"), end="")
    talk = Conversation(client, MODEL, max_tokens=MAX_TOKENS, temperature=0.0)
    turn = talk.say(
        PROMPT, lambda text: console.print(Text(printable(text)), end="", soft_wrap=True)
    )
    console.print()
    return DemoRequest(label, turn.answer, turn.timeline)


def _wait_until_zero(console: Console, client: PlatformClient) -> None:
    began_s = time.monotonic()
    if client.model(MODEL).state == "zero":
        return
    with waiting(console, "waiting until no replica is left"):
        while client.model(MODEL).state != "zero":
            if time.monotonic() - began_s > _ZERO_TIMEOUT_S:
                raise CliError(
                    f"{MODEL} did not scale to zero within {_ZERO_TIMEOUT_S:g} s",
                    ExitCode.UNEXPECTED,
                )
            time.sleep(_ZERO_STEP_S)
    console.print(f"at zero after {duration(time.monotonic() - began_s)}")


def _print_next_steps(console: Console, home: Path, *, keep: bool) -> None:
    if keep:
        lines: Sequence[str] = (
            f"pilotlight chat {MODEL} --home {home}",
            f"pilotlight status --home {home}",
            f"pilotlight down --home {home}",
        )
    else:
        lines = (
            "pilotlight up --detach",
            "pilotlight sample",
            f"pilotlight deploy ./sample --name {MODEL}",
            f'pilotlight chat {MODEL} "class Stack:"',
            "pilotlight down",
        )
    _say(console, "How to go on")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def _say(console: Console, title: str) -> None:
    console.print(f"\n{title}", style="bold cyan")


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the platform is stopped."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Stopping is bounded: a second Ctrl-C must not leave Ray behind."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
