"""Many small models: written, deployed, and what each of them answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pilotlight_autoscaler import AutoscalingConfig
from pilotlight_deploy.bench.wake.asking import ask, connect
from pilotlight_deploy.bench.wake.scale import Scale
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.sample import SHAPES, write_shape
from pilotlight_platform.schemas.model import DeployLive, ModelSpec

Advance = Callable[[str, float], None]

_ZERO_TIMEOUT_S = 60.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Deployed:
    """One model's deploy."""

    name: str
    nbytes: int
    reused: bool  # its content was baked already
    took_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """Deployed models, and the answer of each, as it was while nothing else ran."""

    deploys: tuple[Deployed, ...]
    answers: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(deployed.name for deployed in self.deploys)


def write_sources(directory: Path, contents: int) -> list[Path]:
    """Checkpoints of the smallest sample's shape (4 MB), each with weights of its own."""
    sources = [directory / f"content-{number:03}" for number in range(contents)]
    for number, source in enumerate(sources):
        source.mkdir(parents=True)
        write_shape(source, replace(SHAPES["tiny"], seed=1000 + number))
    return sources


async def deploy_fleet(
    client: PlatformClient,
    sources: Sequence[Path],
    scale: Scale,
    config: AutoscalingConfig,
    advance: Advance,
) -> Fleet:
    """Deploy *sources* in turn under ``scale.models`` names, and ask each model once.

    Raises CliError if a deploy fails, or if two contents answer alike: a mix-up would not show.
    """
    deploys = []
    for number in range(scale.models):
        advance(f"deploying {scale.models} models", number / scale.models)
        spec = ModelSpec(
            name=f"wake-{number:03}", source=str(sources[number % len(sources)]), autoscaling=config
        )
        deploys.append(_deploy(client, spec))
    answers: dict[str, str] = {}
    async with connect(client.url) as http:
        for number, deployed in enumerate(deploys):
            advance("asking each model once", number / len(deploys))
            asked = await ask(http, deployed.name)
            if asked.problem is not None:
                raise CliError(f"{deployed.name}: {asked.problem}", ExitCode.UNEXPECTED)
            answers[deployed.name] = asked.text
    check_answers(list(answers.values()), len(sources))
    return Fleet(tuple(deploys), answers)


def _deploy(client: PlatformClient, spec: ModelSpec) -> Deployed:
    began_s = time.monotonic()
    live = [event for event in client.deploy(spec) if isinstance(event, DeployLive)][-1]
    nbytes = live.model.record.revision.nbytes
    return Deployed(spec.name, nbytes, live.reused, time.monotonic() - began_s)


def check_answers(answers: Sequence[str], contents: int) -> None:
    """Raises CliError unless answers tell the contents, which come in turn, apart."""
    by_content = [set(answers[number::contents]) for number in range(contents)]
    mixed = [number for number, found in enumerate(by_content) if len(found) > 1]
    if mixed:
        raise CliError(f"models of one content ({mixed}) answer differently", ExitCode.UNEXPECTED)
    if len(set(answers)) < contents:
        raise CliError("two contents answer alike", ExitCode.UNEXPECTED)


def wait_for_zero(client: PlatformClient) -> None:
    """Until no model has a replica. Raises CliError after a minute."""
    deadline = time.monotonic() + _ZERO_TIMEOUT_S
    while any(model.state != "zero" for model in client.models()):
        if time.monotonic() > deadline:
            raise CliError("the models did not reach zero", ExitCode.UNEXPECTED)
        time.sleep(_POLL_S)


def deploys_case(fleet: Fleet) -> dict[str, Any]:
    """What deploying cost, by whether the content was baked already."""
    case: dict[str, Any] = {"case": "deploys", "models": len(fleet.deploys)}
    for reused in (False, True):
        took_s = [each.took_s for each in fleet.deploys if each.reused == reused]
        key = "content_reused" if reused else "content_baked"
        case[key] = {"n": len(took_s), "sum_s": sum(took_s), "max_s": max(took_s, default=0.0)}
    return case
