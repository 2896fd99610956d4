"""What a load needs of a device. One file beside this one per kind: cpu, cuda, simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from pilotlight_loader.arena.pieces import Piece


class CopyEvent(Protocol):
    """The end of one asynchronous copy."""

    def done(self) -> bool:
        """Whether the copy has ended; never blocks. Raises DeviceError if it failed."""

    def wait(self) -> None:
        """Block this thread until the copy has ended."""

    def gate(self) -> None:
        """Let the caller's work begin after the copy: its stream waits on a GPU, it on a CPU."""


class DeviceMemory(Protocol):
    """A large range of device memory; it lives as long as any tensor that views it."""

    @property
    def nbytes(self) -> int: ...

    def view(self, start: int, nbytes: int) -> torch.Tensor:
        """Bytes [start, start + nbytes) as a flat uint8 tensor, without a copy."""

    def host(self, start: int, nbytes: int) -> memoryview | None:
        """The same bytes to be written by the CPU, where it can reach them; else None."""


class Device(Protocol):
    """Thread-safe but for `copy`, which one thread calls."""

    @property
    def torch_device(self) -> torch.device: ...

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Raises DeviceError if there is not so much."""

    def staging(self, nbytes: int) -> torch.Tensor:
        """Host memory that `copy` reads from at full speed (pinned for a GPU): flat uint8."""

    def register(self, pieces: Sequence[Piece]) -> None:
        """Let `copy` read these at full speed too, until close(), which comes before their end.

        Raises DeviceError where they cannot be pinned; then none of them is.
        """

    def copy(self, source: torch.Tensor, target: DeviceMemory, start: int) -> CopyEvent:
        """Begin to copy *source*, staging or registered memory, to byte *start* of *target*.

        *source* may be used again only when the event is done.
        """

    def close(self) -> None:
        """Wait for copies in flight, give streams and pinned memory back. Idempotent."""
