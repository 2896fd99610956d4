"""Files of small modules, opened with a source that a test controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from support.file_source import FileSource
from support.sourced_checkpoint import SourcedCheckpoint
from torch import nn

from pilotlight_loader import open_checkpoint


def file_of(module: nn.Module, directory: Path) -> Path:
    path = directory / "model.safetensors"
    save_file(module.state_dict(), path)
    return path


def opened_file(path: Path, **options) -> SourcedCheckpoint:
    return SourcedCheckpoint(open_checkpoint(path), lambda p: FileSource(p, **options))


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()
