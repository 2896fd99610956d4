"""A file mapped at an address at which whole huge pages of it can be mapped. Linux."""

from __future__ import annotations

import ctypes
import os
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap
from typing import TypeVar

from pilotlight_loader.arena.extents import EXTENT_ALIGN

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000  # mmap.MAP_NORESERVE is younger than Python 3.11
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int64),
)
_libc.mmap.restype = ctypes.c_void_p
_FAILED = ctypes.c_void_p(-1).value

_Map = TypeVar("_Map", bound=mmap)


def map_aligned(
    kind: type[_Map], descriptor: int, nbytes: int, offset: int, *, private: bool
) -> tuple[_Map, memoryview]:
    """Bytes [offset, offset + nbytes) of a file, to be written; and the owner of the mapping.

    Address and *offset*, which is on a page, are alike modulo 2 MiB. A file system knows to do
    that, but tmpfs does it only where it was mounted with huge pages, and Python's mmap takes no
    address. The mapping ends with the last reference to its owner, which each view is. Raises
    OSError.
    """
    # Address space alone: what follows replaces it, and what is over stays empty.
    flags = MAP_PRIVATE | MAP_ANONYMOUS | _MAP_NORESERVE
    owner = kind(-1, nbytes + EXTENT_ALIGN, flags=flags, prot=PROT_READ | PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(owner))
    shift = (offset - address) % EXTENT_ALIGN
    flags = _MAP_FIXED | (MAP_PRIVATE if private else MAP_SHARED)
    protection = PROT_READ | PROT_WRITE
    if _libc.mmap(address + shift, nbytes, protection, flags, descriptor, offset) == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return owner, memoryview(owner)[shift : shift + nbytes]
