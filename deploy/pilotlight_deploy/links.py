"""Measures the bandwidth of this machine's links: memory, disk, GPU. A few seconds in all."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pilotlight_platform.links import Link, Links

_BLOCK = 8 << 20
_COPY_BYTES = 64 << 20  # well above the last-level cache
_COPY_S = 0.3
# Fewer cores than a large machine has fill its memory's links. 1 GiB of buffers in all.
_MAX_COPIERS = 16
_COPIERS_BYTES = 32 << 20
_TOUCH_S = 30.0  # at most, for the buffers of all
_FILE_BYTES = 128 << 20
_DISK_S = 3.0  # at most, for writing and for reading


def measure_links(home: Path, *, gpu: bool) -> Links:
    """Takes a few seconds at most, 128 MiB of disk under *home* and of memory for each core.

    Raises OSError if *home* cannot be written.
    """
    return Links(
        measured_at_s=time.time(),
        memory=measure_memory(),
        disk=measure_disk(home),
        memory_all=measure_memory_all(),
        device=measure_device() if gpu else None,
    )


def measure_memory() -> Link:
    """One core copying between two buffers; each byte counts once."""
    source = b"\1" * _COPY_BYTES  # zeros that nobody wrote would all be one page
    target = memoryview(bytearray(_COPY_BYTES))
    target[:] = source  # first touch
    copied, began_s = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - began_s) < _COPY_S:
        target[:] = source
        copied += _COPY_BYTES
    return Link(copied / spent_s, copied, "copy on one core")


def measure_memory_all() -> Link:
    """The same on all cores that this process may use, up to 16."""
    threads = min(len(os.sched_getaffinity(0)), _MAX_COPIERS)
    touched = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, "pilotlight-copy") as pool:
        copied, spent_s = zip(*pool.map(_copy, [touched] * threads), strict=True)
    return Link(sum(copied) / max(spent_s), sum(copied), f"copy on {threads} cores")


def measure_device() -> Link | None:
    """Host to the first GPU; None where torch cannot use one."""
    try:
        # They import torch, which takes a second, and may not be there: the doctor says so.
        from pilotlight_loader import LoaderError  # noqa: PLC0415
        from pilotlight_loader.devices.cuda import measure_h2d_bytes_per_s  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return Link(measure_h2d_bytes_per_s(), 0, "pinned memory to GPU")
    except (LoaderError, RuntimeError):  # no driver, or none that fits this torch
        return None


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


def _copy(touched: threading.Barrier) -> tuple[int, float]:
    """Bytes copied, and in which time."""
    source, target = (
        (ctypes.c_ubyte * _COPIERS_BYTES).from_buffer(bytearray(_COPIERS_BYTES)) for _ in range(2)
    )
    ctypes.memset(source, 1, _COPIERS_BYTES)  # as above
    ctypes.memmove(target, source, _COPIERS_BYTES)
    touched.wait(_TOUCH_S)
    copied, began_s = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - began_s) < _COPY_S:
        ctypes.memmove(target, source, _COPIERS_BYTES)  # unlike a slice, it lets go of the GIL
        copied += _COPIERS_BYTES
    return copied, spent_s


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
