"""Map a baked checkpoint: its tensors are views of the page cache, nothing is copied."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_COPY, PAGESIZE, mmap
from pathlib import Path
from types import TracebackType

import torch

from pilotlight_loader import kernel_layout, pages
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.errors import CheckpointError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.layout import CHUNK_BYTES
from pilotlight_loader.packed import PackedTensor


@dataclass(frozen=True, slots=True)
class PrefaultReport:
    """What prefault() did; times are Unix seconds."""

    start_s: float
    end_s: float
    nbytes: int  # walked; fewer than the file has where it was stopped
    resident_bytes_before: int  # about as many were in the page cache, the rest came from the disk


class MappedCheckpoint:
    """A private mapping of one file. Thread-safe; its tensors keep the memory alive after close().

    Private and writable on purpose: the pages stay those of the page cache, shared by all
    processes, and a model that writes into a buffer (longrope does) gets its own copy of that
    page, where a read-only mapping would end the process. The file must not be changed in place.
    """

    def __init__(
        self,
        path: Path,
        infos: Mapping[str, TensorInfo],
        nbytes: int,
        mapped: memoryview | None = None,
    ) -> None:
        """Map *path*, or take *mapped*: a private mapping of the same bytes somewhere else."""
        self.path = path
        self.infos = infos
        self.nbytes = nbytes
        self._mapped: mmap | memoryview | None = _map(path, nbytes) if mapped is None else mapped

    @property
    def location(self) -> str:
        """For messages."""
        return str(self.path)

    def __enter__(self) -> MappedCheckpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def tensors(self) -> dict[str, torch.Tensor]:
        """A view of each stored tensor, in execution order; ties are not among them."""
        mapped = self._open()
        return {name: _view(mapped, info, self.path) for name, info in self.infos.items()}

    def prefault(self, stop: threading.Event | None = None) -> PrefaultReport:
        """Bring the file into memory in execution order, chunk by chunk, without the GIL.

        *stop* ends it early. Raises CheckpointError where the file cannot be read.
        """
        data = _bytes(self._open(), 0, self.nbytes)
        start_s = time.time()
        resident = self.resident_bytes()
        done = 0
        while done < self.nbytes and not (stop is not None and stop.is_set()):
            end = min(done + CHUNK_BYTES, self.nbytes)
            try:
                if not pages.populate(data.data_ptr() + done, end - done):
                    data[done:end:PAGESIZE].sum()  # a byte of each page, without the GIL too
            except OSError as error:
                raise CheckpointError(self.path, f"cannot be read: {error.strerror}") from error
            done = end
        return PrefaultReport(start_s, time.time(), done, resident)

    def resident_bytes(self) -> int:
        """Bytes in the page cache, mapped or not: an estimate from one page in 2 MiB."""
        data = _bytes(self._open(), 0, self.nbytes)
        try:
            return pages.resident_bytes(data.data_ptr(), self.nbytes)
        except OSError as error:
            raise CheckpointError(self.path, f"cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the mapping. It is unmapped when the last tensor of it dies."""
        self._mapped = None

    def _open(self) -> mmap | memoryview:
        if self._mapped is None:
            raise ValueError(f"{self.path}: the mapping is closed")
        return self._mapped


def _map(path: Path, nbytes: int) -> mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != nbytes:  # reading past the end of a mapped file is a SIGBUS
                raise CheckpointError(path, f"{size} bytes, it was opened with {nbytes}: replaced?")
            return mmap(file.fileno(), nbytes, access=ACCESS_COPY)
    except OSError as error:
        raise CheckpointError(path, f"cannot be mapped: {error.strerror}") from error


def _view(mapped: mmap | memoryview, info: TensorInfo, path: Path) -> torch.Tensor:
    if isinstance(info, PackedTensor):
        return kernel_layout.view(_bytes(mapped, info.start, info.nbytes), info.layout)
    dtype = torch_dtype(info.dtype, info.name, path)
    shape = torch_shape(info.dtype, info.shape, info.name, path)
    if info.nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    return _bytes(mapped, info.start, info.nbytes).view(dtype).view(shape)


def _bytes(mapped: mmap | memoryview, start: int, nbytes: int) -> torch.Tensor:
    # Each tensor has a storage of its own, of its own size: whoever copies or pickles a storage
    # gets that tensor, not the file. It refers to the mmap object but exports no buffer of it,
    # so mmap.close() would pull the memory away; nobody calls it, the last reference unmaps.
    return torch.frombuffer(mapped, dtype=torch.uint8, count=nbytes, offset=start)
