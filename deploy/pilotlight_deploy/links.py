"""Measured bandwidth of this machine's links, kept in ``<home>/links.json``."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_BLOCK = 8 << 20
_COPY_BYTES = 64 << 20  # well above the last-level cache
_COPY_S = 0.3
_FILE_BYTES = 128 << 20
_DISK_S = 3.0  # at most, for writing and for reading


@dataclass(frozen=True, slots=True)
class Link:
    bytes_per_s: float
    measured_bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Links:
    measured_at_s: float  # Unix time
    memory: Link
    disk: Link


def measure_links(home: Path) -> Links:
    """Takes a few seconds at most, 128 MiB of disk under *home* and as much memory.

    Raises OSError if *home* cannot be written.
    """
    return Links(time.time(), measure_memory(), measure_disk(home))


def store_links(links: Links, home: Path) -> Path:
    """Write ``links.json`` atomically."""
    path = home / "links.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(links), indent=2) + "\n")
    part.replace(path)
    return path


def measure_memory() -> Link:
    """One core copying between two buffers; each byte counts once."""
    source, target = bytearray(_COPY_BYTES), memoryview(bytearray(_COPY_BYTES))
    target[:] = source  # first touch
    copied, began_s = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - began_s) < _COPY_S:
        target[:] = source
        copied += _COPY_BYTES
    return Link(copied / spent_s, copied, "copy on one core")


def measure_disk(home: Path) -> Link:
    """Read back a file just written, past the page cache."""
    with tempfile.TemporaryDirectory(prefix=".links-", dir=home) as folder:
        path = Path(folder) / "blocks"
        _write_blocks(path)
        descriptor, how = _open_uncached(path)
        try:
            read, spent_s = _read_blocks(descriptor)
        finally:
            os.close(descriptor)
    return Link(read / spent_s, read, how)


def _write_blocks(path: Path) -> None:
    block = os.urandom(_BLOCK)
    began_s = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(_FILE_BYTES // _BLOCK):
            file.write(block)
            if time.perf_counter() - began_s > _DISK_S:
                break
        file.flush()
        os.fsync(file.fileno())


def _open_uncached(path: Path) -> tuple[int, str]:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), "O_DIRECT"
    except OSError:  # tmpfs and some network file systems
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return descriptor, "page cache dropped"


def _read_blocks(descriptor: int) -> tuple[int, float]:
    read = 0
    with mmap.mmap(-1, _BLOCK) as buffer:  # page-aligned, as O_DIRECT wants
        buffer[:] = bytes(_BLOCK)  # fresh pages would cost more than the read
        began_s = time.perf_counter()
        while count := os.readv(descriptor, [buffer]):
            read += count
            if time.perf_counter() - began_s > _DISK_S:
                break
        return read, time.perf_counter() - began_s
