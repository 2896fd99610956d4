"""A checkpoint in the arena, for a device that copies from there."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pilotlight_loader.arena.lease import Lease
from pilotlight_loader.arena.mapped import check_image
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sources.host import HostSource
from pilotlight_loader.sources.source import ByteSource


class LeasedCheckpoint:
    """A ReadableCheckpoint: *baked* as it stands under *lease*, which may be closed.

    It holds the lease until it is closed, and so does every load of it until it has ended. To a
    GPU the bytes go straight from the arena: at full speed and in the background where its device
    has registered the arena's pieces, else right but slow. For a CPU, map_lease() copies nothing.
    """

    in_execution_order = True

    def __init__(self, lease: Lease, baked: BakedCheckpoint) -> None:
        """Raises ArenaError where the lease is not of *baked*'s size."""
        check_image(lease, baked)
        self.location: str = baked.location
        self.tensors: Mapping[str, TensorInfo] = baked.tensors
        self.ties: Mapping[str, str] = baked.ties
        self._source = HostSource(f"arena:{lease.key}", lease.tensor())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def file_of(self, tensor: str, /) -> str:
        return self._source.location

    def source(self, file: str, /) -> ByteSource:
        return self._source

    def close(self) -> None:
        """Let go of the lease, once loads that still run have ended. Idempotent."""
        self._source.close()
