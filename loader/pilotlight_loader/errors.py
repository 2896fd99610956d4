"""Every error of the loader.

LoaderError
├── CheckpointError             a checkpoint on disk cannot be used as it is
│   ├── HeaderError             the safetensors header is broken, or does not fit the file
│   ├── UnsafeCheckpointError   pickles, or an index that points outside its directory
│   ├── MissingShardError       the index names a file that is not there
│   ├── UnsupportedDtypeError   torch has no such dtype, or safetensors has none
│   ├── LayoutVersionError      not baked, or baked in another version of the layout
│   ├── QuantizedFormatError    quantized by others, in a way that is not read or is broken
│   ├── ChecksumError           the bytes are not those that were baked
│   └── QuantizationError       a weight cannot be quantized as it was asked for
├── SourceReadError             the place that a checkpoint is read from does not give its bytes
│   ├── LocationError           not a location, or of a kind that is not installed
│   ├── ObjectMissingError      there is no such object
│   ├── AccessDeniedError       credentials are missing, wrong or too weak
│   ├── ObjectChangedError      the object is not the one that was opened: load again
│   ├── TransientReadError      time-out, broken connection, 5xx: worth another try
│   ├── RangeAnswerError        the server answered another range than was asked for
│   └── ReadAbortedError        the reader was aborted
├── CacheError                  the disk tier cannot be used
│   └── CacheFullError          everything in it is leased, nothing can be evicted
├── ArenaError                  the host tier cannot be used
│   └── ArenaFullError          everything in it is leased, or larger than it
├── DeviceError                 the device refuses memory or a copy
├── LoadFailedError             a load ended early: its tensors must not be used
│   └── LoadCancelledError      because it was cancelled
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
    """A checkpoint cannot be used as it is. *path* is a location where it is not on disk."""

    def __init__(self, path: Path | str, reason: str) -> None:
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


class QuantizedFormatError(CheckpointError):
    """Quantized by others, in a way that is not read, or not as its own config says."""


class ChecksumError(CheckpointError):
    """The bytes on disk are not those that were baked."""


class QuantizationError(CheckpointError):
    """A weight cannot be quantized as it was asked for: leave it out, or choose another kind."""

    def __init__(self, path: Path | str, weight: str, reason: str) -> None:
        super().__init__(path, f"{weight!r} cannot be quantized: {reason}")
        self.args = (path, weight, reason)
        self.weight = weight


class SourceReadError(LoaderError):
    """The place that a checkpoint is read from does not give its bytes."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(location, reason)
        self.location = location
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


class LocationError(SourceReadError):
    """Not a location, or of a kind whose client is not installed."""


class ObjectMissingError(SourceReadError):
    """There is no such object."""


class AccessDeniedError(SourceReadError):
    """Credentials are missing, wrong or too weak."""


class ObjectChangedError(SourceReadError):
    """The object is not the one that was opened: nothing was mixed, load it again."""


class TransientReadError(SourceReadError):
    """A time-out, a broken connection, a 5xx: worth another try."""

    def __init__(self, location: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(location, reason)
        self.args = (location, reason, retry_after_s)
        self.retry_after_s = retry_after_s  # what the server asked for


class RangeAnswerError(SourceReadError):
    """The server answered another range, or more or fewer bytes, than was asked for."""


class ReadAbortedError(SourceReadError):
    """The reader was aborted from another thread."""


class CacheError(LoaderError):
    """The disk tier cannot be used."""


class CacheFullError(CacheError):
    """Everything in the disk tier is leased: nothing can be evicted for what is wanted."""


class ArenaError(LoaderError):
    """The host tier cannot be used."""


class ArenaFullError(ArenaError):
    """Everything in the host tier is leased, or what is wanted is larger than all of it."""


class DeviceError(LoaderError):
    """The device refuses memory or a copy."""


class LoadFailedError(LoaderError):
    """A load ended early; the module is weightless again and no tensor of it may be used."""


class LoadCancelledError(LoadFailedError):
    """The load was cancelled."""


class AttachMismatchError(LoaderError):
    """Module and checkpoint do not belong together; `problems` names every tensor."""

    def __init__(self, location: str, problems: Sequence[str]) -> None:
        super().__init__(location, tuple(problems))
        self.location = location
        self.problems = tuple(problems)

    def __str__(self) -> str:
        shown = "; ".join(self.problems[:MAX_PROBLEMS_SHOWN])
        hidden = len(self.problems) - MAX_PROBLEMS_SHOWN
        more = f"; and {hidden} more" if hidden > 0 else ""
        return f"{self.location} does not fit the module: {shown}{more}"


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
