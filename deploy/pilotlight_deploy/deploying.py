"""A deploy followed to its end."""

from __future__ import annotations

from rich.console import Console

from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.render.progress import deploying
from pilotlight_platform.schemas.model import DeployLive, DeployProgress, ModelSpec


def deploy_model(client: PlatformClient, spec: ModelSpec, console: Console) -> DeployLive:
    """Deploy *spec*, showing each step on *console*. Raises CliError if it failed."""
    with deploying(console) as show:
        for event in client.deploy(spec):
            if isinstance(event, DeployProgress):
                show(event)
            else:
                live = event
    return live
