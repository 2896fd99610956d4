"""`pilotlight chat`: talk to a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from pilotlight_deploy.conversation import Conversation, Turn
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.options import HomeOption, JsonOption, UrlOption, connect
from pilotlight_deploy.output import print_json, printable, stderr, stdout
from pilotlight_deploy.render.waterfall import summary, waterfall


def chat(
    model: Annotated[str, typer.Argument(help="The model's name.", show_default=False)],
    message: Annotated[
        str | None, typer.Argument(help="What to say; default: each line of stdin.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of the answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0 always picks the likeliest token.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show each request's steps.")
    ] = False,
    url: UrlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stream a model's answer; what the first token took goes to stderr.

    Example: pilotlight chat sample "Hello" --max-tokens 32
    """
    with connect(url, home) as client:
        talk = Conversation(client, model, max_tokens, temperature, seed)
        if as_json:
            said = sys.stdin.read() if message is None else message
            return print_json(talk.say(said, lambda text: None))
        if message is not None:
            return _turn(talk, message, timeline=timeline)
        _converse(talk, timeline=timeline)


def _converse(talk: Conversation, *, timeline: bool) -> None:
    """A turn per line of stdin. On a terminal an error ends the turn, elsewhere the command."""
    interactive = sys.stdin.isatty()
    while line := _next_line(prompt="> " if interactive else ""):
        if not line.strip():
            continue
        try:
            _turn(talk, line.strip(), timeline=timeline)
        except CliError as error:
            if not interactive:
                raise
            stderr().print("\n".join(error.lines()), style="red")
    if interactive:
        stderr().print()  # the shell's prompt on a line of its own


def _next_line(prompt: str) -> str:
    stderr().print(prompt, end="")
    return sys.stdin.readline()


def _turn(talk: Conversation, message: str, *, timeline: bool) -> None:
    out = stdout()
    turn = talk.say(message, lambda text: out.print(Text(printable(text)), end="", soft_wrap=True))
    out.print()
    _explain(turn, timeline=timeline)


def _explain(turn: Turn, *, timeline: bool) -> None:
    err = stderr()
    if timeline:
        err.print(waterfall(turn.timeline, width=min(100, err.width)))
    else:
        err.print(summary(turn.timeline), style="dim", soft_wrap=True)
