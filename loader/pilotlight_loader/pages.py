"""Calls on mapped pages that Python lacks, or makes only while it holds the GIL. Linux."""

from __future__ import annotations

import ctypes
import errno
import os
from mmap import PAGESIZE

_MADV_POPULATE_READ = 22  # Linux 5.14
_MADV_POPULATE_WRITE = 23
_MADV_COLLAPSE = 25  # Linux 6.1
# ctypes lets go of the GIL around a call: other threads go on while pages come from the disk.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.restype = ctypes.c_int
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.mincore.restype = ctypes.c_int
# One page stands for so many bytes. The kernel looks every unmapped page up: all of 0.75 GB
# take it 90 ms, which would be the longest part of an attach; the sample takes 0.8 ms.
_SAMPLE_BYTES = 2 * 1024 * 1024


def populate(address: int, nbytes: int, *, write: bool = False) -> bool:
    """Map and, where needed, read or make the pages; False where the kernel cannot.

    *address* is on a page; *write* maps them as a write to them would, without changing them.
    Raises OSError where the pages cannot be had.
    """
    advice = _MADV_POPULATE_WRITE if write else _MADV_POPULATE_READ
    if _libc.madvise(address, nbytes, advice) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EINVAL:
        return False
    raise OSError(code, os.strerror(code))


def collapse(address: int, nbytes: int) -> bool:
    """Make huge pages of those of this range that were begun; False where some stayed small.

    The contents stay. Asks no setting of the kernel's but `deny`, and no privilege; where the
    mapping's address does not suit, or no huge page is free, nothing changes.
    """
    failed: int = _libc.madvise(address, nbytes, _MADV_COLLAPSE)
    return failed == 0


def resident_bytes(address: int, nbytes: int) -> int:
    """About how many of these bytes are in the page cache; *address* is on a page. Raises OSError.

    The kernel tells only who may write the file, or owns it; to others all bytes look resident.
    """
    answer = ctypes.c_ubyte()
    resident = 0
    for start in range(0, nbytes, _SAMPLE_BYTES):
        end = min(start + _SAMPLE_BYTES, nbytes)
        # The last page: the first ones of a file are there as soon as its header was read.
        page = (end - 1) // PAGESIZE * PAGESIZE
        if _libc.mincore(address + page, 1, ctypes.byref(answer)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if answer.value & 1:  # the other bits are reserved
            resident += end - start
    return resident
