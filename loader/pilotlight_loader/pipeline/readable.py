"""What a transfer needs of a checkpoint. A Checkpoint is one; so is a BakedCheckpoint's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sources.source import ByteSource


class ReadableCheckpoint(Protocol):
    """Tensors by name, each in a file of which every byte can be asked for."""

    @property
    def location(self) -> str:
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

    def file_of(self, tensor: str, /) -> str:
        """The key of the file that *tensor* stands in."""

    def source(self, file: str, /) -> ByteSource:
        """The file's bytes; the checkpoint closes it."""
