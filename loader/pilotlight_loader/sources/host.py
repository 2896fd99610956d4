"""Bytes that stand in host memory already, as in the arena: a device can copy them from there."""

from __future__ import annotations

import threading

import torch

from pilotlight_loader.errors import RangeAnswerError, ReadAbortedError
from pilotlight_loader.host_bytes import bytes_at
from pilotlight_loader.sources.source import ObjectVersion, Reader

PARALLEL = 2  # memory is the limit: two threads copied 18 GB/s where one copied 15
# Beginning a copy costs 10 µs or so, 16 MiB take 300 µs on a PCIe 5 link: it never runs dry, and
# the first layer waits for little more than itself.
PART_BYTES = 16 * 1024 * 1024


class HostSource:
    """A flat uint8 tensor as a ByteSource. Thread-safe.

    A device of its own memory copies from `memory` and reads nothing; others read as from a file.
    """

    parallel = PARALLEL
    part_bytes = PART_BYTES

    def __init__(self, location: str, memory: torch.Tensor) -> None:
        self.location = location
        self.version = ObjectVersion(memory.numel(), f"memory-{memory.data_ptr():x}")
        self._memory: torch.Tensor | None = memory

    @property
    def memory(self) -> torch.Tensor:
        """All bytes: copy from them, never write. Raises ValueError after close()."""
        if self._memory is None:
            raise ValueError(f"{self.location}: the memory was given back")
        return self._memory

    def reader(self) -> Reader:
        return _HostReader(self.location, self.memory)

    def close(self) -> None:
        self._memory = None


class _HostReader:
    def __init__(self, location: str, memory: torch.Tensor) -> None:
        self._location = location
        self._bytes = bytes_at(memory.data_ptr(), memory.numel(), memory).toreadonly()
        self._aborted = threading.Event()

    def read_into(self, start: int, into: memoryview) -> None:
        if self._aborted.is_set():
            raise ReadAbortedError(self._location, "the read was aborted")
        found = self._bytes[start : start + len(into)]
        if len(found) != len(into):
            raise RangeAnswerError(
                self._location, f"{len(into)} bytes at {start} asked for, there are {len(found)}"
            )
        into[:] = found

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        """The memory goes with the reader."""
