"""The CPU as a device: its memory is the host's, so parts are read to where they stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pilotlight_loader.arena.pieces import Piece
from pilotlight_loader.devices.device import DeviceMemory
from pilotlight_loader.devices.host_memory import Allocate, HostMemory, anonymous


class CopyDone:
    """The event of a copy that had ended before it was asked for."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        """It has ended."""

    def gate(self) -> None:
        """It has ended."""


class CpuDevice:
    """Fresh memory for each range, or what *allocate* gives: touched, shared, from an arena."""

    def __init__(self, allocate: Allocate = anonymous) -> None:
        """*allocate* gives at least so many bytes, on a page and writable, or raises."""
        self._allocate = allocate

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def allocate(self, nbytes: int) -> DeviceMemory:
        return HostMemory(self._allocate(nbytes), nbytes)

    def staging(self, nbytes: int) -> torch.Tensor:
        return HostMemory(anonymous(nbytes), nbytes).view(0, nbytes)

    def register(self, pieces: Sequence[Piece]) -> None:
        """The CPU reads everything at full speed."""

    def copy(self, source: torch.Tensor, target: DeviceMemory, start: int) -> CopyDone:
        target.view(start, source.numel()).copy_(source)
        return CopyDone()

    def close(self) -> None:
        """Nothing is in flight, and memory goes with its tensors."""
