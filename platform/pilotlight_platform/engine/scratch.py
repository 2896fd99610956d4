"""Tensors in a file that nobody sees: as much as there is disk, not as much as there is memory."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from mmap import PAGESIZE
from pathlib import Path

import torch

from pilotlight_loader import DiskFullError


def in_scratch(
    tensors: Iterable[tuple[str, torch.Tensor]], directory: Path
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same tensors, views of an unlinked file in *directory*; one at a time is in memory.

    All of them are read before the first is given. The file is gone with the last view.
    Raises DiskFullError.
    """
    places: list[tuple[str, int, torch.dtype, torch.Size]] = []
    end = 0
    with tempfile.TemporaryFile(dir=directory, prefix="scratch.") as file:
        for name, tensor in tensors:
            places.append((name, end, tensor.dtype, tensor.shape))
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            _write(file.fileno(), data, end, directory)
            end += -(-len(data) // PAGESIZE) * PAGESIZE
        file.truncate(max(end, 1))  # nothing cannot be mapped
        # By torch, which closes its descriptor: Python's mmap keeps one as long as it lives, and a
        # process may have 1024, where a mixture of experts has thousands of weights.
        path = f"/proc/self/fd/{file.fileno()}"
        mapped = torch.from_file(path, shared=False, size=max(end, 1), dtype=torch.uint8)
    for name, start, dtype, shape in places:
        nbytes = shape.numel() * dtype.itemsize
        if not nbytes:
            yield name, torch.empty(shape, dtype=dtype)
            continue
        yield name, mapped[start : start + nbytes].view(dtype).view(shape)


def _write(descriptor: int, data: memoryview, offset: int, directory: Path) -> None:
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(directory).free
        raise DiskFullError(directory, len(data), free) from error
