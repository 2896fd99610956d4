"""Every error of the loader.

LoaderError
├── CheckpointError             a checkpoint on disk cannot be used as it is
│   ├── HeaderError             the safetensors header is broken, or does not fit the file
│   ├── UnsafeCheckpointError   pickles, or an index that points outside its directory
│   ├── MissingShardError       the index names a file that is not there
│   ├── UnsupportedDtypeError   torch has no such dtype, or safetensors has none
│   ├── LayoutVersionError      not baked, or baked in another version of the layout
│   └── ChecksumError           the bytes are not those that were baked
├── AttachMismatchError         module and checkpoint do not belong together
└── DiskFullError               no room to write the checkpoint
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAX_PROBLEMS_SHOWN = 8


class LoaderError(Exception):
    """Root of the loader's errors. All of them survive pickling."""


class CheckpointError(LoaderError):
    """A checkpoint on disk cannot be used as it is."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class HeaderError(CheckpointError):
    """The safetensors header is broken, or does not fit the file."""


class UnsafeCheckpointError(CheckpointError):
    """Pickles, or an index that points outside its directory."""


class MissingShardError(CheckpointError):
    """The index names a file that is not there."""


class UnsupportedDtypeError(CheckpointError):
    """A tensor has a dtype that torch or safetensors does not know."""


class LayoutVersionError(CheckpointError):
    """Not baked, or baked in another version of the layout: bake it again."""


class ChecksumError(CheckpointError):
    """The bytes on disk are not those that were baked."""


class AttachMismatchError(LoaderError):
    """Module and checkpoint do not belong together; `problems` names every tensor."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__(path, tuple(problems))
        self.path = path
        self.problems = tuple(problems)

    def __str__(self) -> str:
        shown = "; ".join(self.problems[:MAX_PROBLEMS_SHOWN])
        hidden = len(self.problems) - MAX_PROBLEMS_SHOWN
        more = f"; and {hidden} more" if hidden > 0 else ""
        return f"{self.path} does not fit the module: {shown}{more}"


class DiskFullError(LoaderError):
    """No room to write the checkpoint."""

    def __init__(self, path: Path, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(path, needed_bytes, free_bytes)
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    def __str__(self) -> str:
        return (
            f"{self.path}: the disk is full: {self.needed_bytes} bytes are needed, "
            f"{self.free_bytes} are free"
        )
