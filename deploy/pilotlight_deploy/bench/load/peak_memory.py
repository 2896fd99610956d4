"""The most memory that this process had at once, within a block. Linux."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_RESET_PEAK = "5"  # proc(5), clear_refs


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Gives a function that tells, in bytes, the peak resident size since the block began."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    yield _peak_bytes


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
