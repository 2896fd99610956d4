"""Published checkpoints that no model uses any more, and what a killed bake left."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove_unused(checkpoints_dir: Path, used: set[str]) -> None:
    """Remove every checkpoint but those in *used*. Only while no bake runs.

    Replicas are not disturbed: a mapped file outlives its name.
    """
    for directory in checkpoints_dir.glob("*"):
        if str(directory) not in used:
            shutil.rmtree(directory, ignore_errors=True)
