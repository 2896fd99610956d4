"""Host memory on a page, as torch sees it and as a file is read into it. Linux."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from pilotlight_loader.errors import DeviceError


class PinnedMap(mmap.mmap):
    """A mapping that is unpinned before it is unmapped.

    By __del__, which runs before the memory goes. A weakref.finalize runs after munmap() (CPython
    3.11, mmap_object_dealloc): by then another mapping may stand there, and would be unpinned.
    """

    unpin: Callable[[], None] | None = None

    def __del__(self) -> None:
        unpin, self.unpin = self.unpin, None
        if unpin is not None and not sys.is_finalizing():  # CUDA may have gone; the kernel does it
            unpin()


_Map = TypeVar("_Map", bound=mmap.mmap)


def anonymous(nbytes: int) -> mmap.mmap:
    """Fresh memory of this process alone, as anonymous_as() makes it."""
    return anonymous_as(mmap.mmap, nbytes)


def anonymous_as(kind: type[_Map], nbytes: int) -> _Map:
    """Fresh memory of this process alone, on a page. Raises DeviceError if there is not so much.

    Its pages come when they are first written, 2 MiB at a time where the kernel can: measured with
    two threads on two cores, 11-20 GB/s instead of 2.6-3.5 GB/s with pages of 4 KiB.
    """
    try:
        memory = kind(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise DeviceError(f"no {nbytes} bytes of host memory: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages: slower, not wrong
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def host_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a flat uint8 tensor in host memory, to be written; keeps the tensor alive."""
    array = (ctypes.c_ubyte * tensor.numel()).from_address(tensor.data_ptr())
    # torch exports no buffers, and from_address() holds nothing: the array holds the tensor.
    array.tensor = tensor  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


class HostMemory:
    """DeviceMemory that the CPU reaches. Every view has a storage of its own, of its own size."""

    def __init__(self, buffer: mmap.mmap | memoryview, nbytes: int) -> None:
        self._buffer = buffer
        self._nbytes = nbytes

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def view(self, start: int, nbytes: int) -> torch.Tensor:
        if nbytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        # It refers to the buffer object, which lives as long as any view; see mapping.py.
        return torch.frombuffer(self._buffer, dtype=torch.uint8, count=nbytes, offset=start)

    def host(self, start: int, nbytes: int) -> memoryview | None:
        return memoryview(self._buffer)[start : start + nbytes]


Allocate = Callable[[int], "mmap.mmap | memoryview"]
