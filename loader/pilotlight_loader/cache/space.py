"""Room on the disk: reserved before it is needed, and its lack named."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from pilotlight_loader.errors import CacheError, DiskFullError, LoaderError

# Quotas and limits on a file's size are the same to us: no more bytes go in.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
# Not os.posix_fallocate: where the file system cannot, glibc writes a byte into each 4 kB block,
# which is 3.7 million writes for 15 GB.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int


def reserve(descriptor: int, nbytes: int) -> None:
    """Give the file its full size, with the room for it where the file system can. OSError."""
    if nbytes == 0:
        return
    if _libc.fallocate(descriptor, 0, 0, nbytes) == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code))
    os.ftruncate(descriptor, nbytes)  # sparse: a full disk is then met by a write


def allocated_bytes(path: Path) -> int:
    """What the file takes of its disk; 0 where there is none. Raises OSError."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def as_loader_error(error: OSError, path: Path, needed_bytes: int) -> LoaderError:
    """DiskFullError where the disk is full, else CacheError."""
    if error.errno in NO_ROOM:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        return DiskFullError(path, needed_bytes, free_bytes(there))
    return CacheError(f"{path}: {error.strerror or error}")
