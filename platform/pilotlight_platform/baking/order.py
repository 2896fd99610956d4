"""What a baking process is told to do."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pilotlight_platform.schemas.model import ModelSpec


class BakeOrder(BaseModel):
    """One model to bake, and the directories to work in."""

    model_config = ConfigDict(frozen=True)

    spec: ModelSpec
    checkpoints_dir: Path
    cache_dir: Path
    cache_bytes: int | None = None  # None: no limit but the disk's
