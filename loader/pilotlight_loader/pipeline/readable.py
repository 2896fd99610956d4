"""What a transfer needs of a checkpoint, and how a local one gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.checkpoint import Checkpoint
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.layout import PAD_PREFIX
from pilotlight_loader.sources.source import ByteSource


class ReadableCheckpoint(Protocol):
    """Tensors by name, each in a file of which every byte can be asked for."""

    @property
    def path(self) -> Path:
        """For messages."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """In file order, without pads; offsets are those of the tensor's own file."""

    @property
    def ties(self) -> Mapping[str, str]:
        """Alias -> the name under which the tensor is stored."""

    @property
    def in_execution_order(self) -> bool:
        """Whether file order is the order in which a forward pass reads."""

    def file_of(self, name: str) -> str:
        """The key of the file that tensor *name* stands in."""

    def source(self, file: str) -> ByteSource:
        """The file's bytes; the checkpoint closes it."""


class LocalCheckpoint:
    """A Checkpoint or BakedCheckpoint, whose files *open_source* opens. Closes them."""

    def __init__(
        self, checkpoint: Checkpoint | BakedCheckpoint, open_source: Callable[[Path], ByteSource]
    ) -> None:
        self._open_source = open_source
        self._sources: dict[str, ByteSource] = {}
        self.ties: Mapping[str, str] = {}
        self.path = checkpoint.path
        self.tensors = {
            name: info
            for name, info in checkpoint.tensors.items()
            if not name.startswith(PAD_PREFIX)  # a baked file, opened as any other
        }
        if isinstance(checkpoint, BakedCheckpoint):
            self.ties = checkpoint.ties
            self.in_execution_order = True
            self._files = dict.fromkeys(checkpoint.tensors, str(checkpoint.path))
        else:
            self.in_execution_order = False
            self._files = {
                name: str(file)
                for file, header in checkpoint.headers.items()
                for name in header.tensors
            }

    def file_of(self, name: str) -> str:
        return self._files[name]

    def source(self, file: str) -> ByteSource:
        if file not in self._sources:
            self._sources[file] = self._open_source(Path(file))
        return self._sources[file]

    def close(self) -> None:
        """Idempotent."""
        while self._sources:
            self._sources.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
