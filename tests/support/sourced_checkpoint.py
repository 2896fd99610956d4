"""A checkpoint of this machine whose bytes come from sources that a test controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.checkpoint import Checkpoint
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sources.source import ByteSource


class SourcedCheckpoint:
    """A ReadableCheckpoint: *open_source* is given each file's path, once."""

    def __init__(
        self, checkpoint: Checkpoint | BakedCheckpoint, open_source: Callable[[Path], ByteSource]
    ) -> None:
        self._checkpoint = checkpoint
        self._open_source = open_source
        self._sources: dict[str, ByteSource] = {}
        self.location = checkpoint.location
        self.tensors: Mapping[str, TensorInfo] = checkpoint.tensors
        self.ties: Mapping[str, str] = checkpoint.ties
        self.in_execution_order = (
            isinstance(checkpoint, BakedCheckpoint) or checkpoint.in_execution_order
        )

    def file_of(self, tensor: str) -> str:
        if isinstance(self._checkpoint, BakedCheckpoint):
            return str(self._checkpoint.path)
        root = Path(self.location)
        folder = root if root.is_dir() else root.parent
        return str(folder / self._checkpoint.file_of(tensor))

    def source(self, file: str) -> ByteSource:
        if file not in self._sources:
            self._sources[file] = self._open_source(Path(file))
        return self._sources[file]
