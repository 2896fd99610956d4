"""How soon the worker begins to attach once a request has come to a model at zero.

Each model has been at zero for ``quiet_s`` at least. In a round the whole platform is left alone
for so long: no request, no call. The first start after that is told apart from the others.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from pilotlight_deploy.bench.report import Figure, percentile_figure
from pilotlight_deploy.bench.wake.asking import Asked, ask, connect
from pilotlight_deploy.bench.wake.fleet import Advance, Fleet, wait_for_zero
from pilotlight_deploy.bench.wake.scale import Scale
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode

_GOAL_MS = 50.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start from zero."""

    round: int
    first: bool  # after the platform was left alone
    model: str
    attach_begins_ms: float  # since the gateway had the request
    sent_to_attach_ms: float  # since the client sent it, on a connection that it opens first
    ttft_ms: float


async def measure_starts(
    client: PlatformClient, fleet: Fleet, scale: Scale, advance: Advance
) -> list[Start]:
    """``scale.rounds`` times ``scale.round_starts``. Raises CliError if one was not cold."""
    random = Random(scale.seed)
    models = random.sample(fleet.names, min(scale.round_starts, len(fleet.names)))
    starts: list[Start] = []
    async with connect(client.url) as http:
        for number in range(1, scale.rounds + 1):
            label = f"starts, round {number} of {scale.rounds}"
            wait_for_zero(client)
            advance(f"{label}: leaving the platform alone", 0.0)
            await asyncio.sleep(scale.quiet_s)
            asked = []
            for model in random.sample(models, len(models)):
                asked.append(await ask(http, model))
                await asyncio.sleep(random.uniform(scale.spacing_min_s, scale.spacing_max_s))
                advance(label, len(asked) / len(models))
            # Only now: nothing but the starts has run since the quiet.
            starts += [_start(client, fleet, number, one, one is asked[0]) for one in asked]
    return starts


def _start(client: PlatformClient, fleet: Fleet, number: int, asked: Asked, first: bool) -> Start:
    if asked.ttft_s is None or asked.text != fleet.answers[asked.model]:
        raise CliError(f"{asked.model}: {asked.problem or 'a wrong answer'}", ExitCode.UNEXPECTED)
    timeline = client.finished_timeline(asked.request_id)
    begins_s = [span.start_s for span in timeline.spans if span.name == "attach"]
    if not begins_s:
        raise CliError(f"{asked.model} was not at zero", ExitCode.UNEXPECTED)
    return Start(
        round=number,
        first=first,
        model=asked.model,
        attach_begins_ms=(begins_s[0] - timeline.at_s) * 1e3,
        sent_to_attach_ms=(begins_s[0] - asked.sent_at_s) * 1e3,
        ttft_ms=asked.ttft_s * 1e3,
    )


def starts_figures(starts: list[Start]) -> list[Figure]:
    begins = [start.attach_begins_ms for start in starts]
    sent = [start.sent_to_attach_ms for start in starts]
    ttft = [start.ttft_ms for start in starts]
    return [
        percentile_figure("wake.attach_begins_p99_ms", begins, 99, "ms", goal=_GOAL_MS),
        percentile_figure("wake.attach_begins_p50_ms", begins, 50, "ms"),
        percentile_figure("wake.sent_to_attach_p99_ms", sent, 99, "ms"),
        percentile_figure("wake.ttft_p50_ms", ttft, 50, "ms"),
        percentile_figure("wake.ttft_p99_ms", ttft, 99, "ms"),
    ]


def starts_cases(starts: list[Start]) -> list[dict[str, Any]]:
    """Every start; those that ended a quiet are cases of their own kind."""
    cases = []
    for start in starts:
        case = asdict(start)
        cases.append({"case": "first_after_quiet" if case.pop("first") else "start", **case})
    return cases
