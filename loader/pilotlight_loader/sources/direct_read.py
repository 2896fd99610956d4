"""O_DIRECT reads of one file: aligned, into the target itself or through a bounce buffer."""

from __future__ import annotations

import ctypes
import mmap
import os

# What every file system with O_DIRECT takes; statx(STATX_DIOALIGN) would name a smaller one,
# but Python does not have it, and at 8 MiB a part the edges are 0.1 %.
ALIGN_BYTES = 4096
# Below it two more system calls and a second descriptor cost more than the page cache does.
MIN_DIRECT_BYTES = 1024 * 1024
_BOUNCE_BYTES = 1024 * 1024


def direct_span(start: int, nbytes: int, file_bytes: int) -> tuple[int, int] | None:
    """The aligned part of a range that is worth a direct read; the file's last page never is."""
    first = -(-start // ALIGN_BYTES) * ALIGN_BYTES
    last = min(start + nbytes, file_bytes) // ALIGN_BYTES * ALIGN_BYTES
    return (first, last) if last - first >= MIN_DIRECT_BYTES else None


def address_of(view: memoryview) -> int:
    """Where the bytes of a writable view are."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


class DirectFile:
    """Owns a descriptor that was opened with O_DIRECT. One thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bounce: mmap.mmap | None = None

    def read_into(self, start: int, into: memoryview) -> int:
        """Bytes read, fewer only at the end of the file; *start* and the length are aligned."""
        done = 0
        while done < len(into):
            rest = into[done:]
            if address_of(rest) % ALIGN_BYTES == 0:
                count = os.preadv(self._descriptor, [rest], start + done)
            else:
                count = self._read_bounced(start + done, rest)
            done += count
            # Less than a page is the end of the file, and the next read would not be aligned.
            if count == 0 or count % ALIGN_BYTES:
                break
        return done

    def close(self) -> None:
        os.close(self._descriptor)
        if self._bounce is not None:
            self._bounce.close()

    def _read_bounced(self, start: int, into: memoryview) -> int:
        if self._bounce is None:
            self._bounce = mmap.mmap(-1, _BOUNCE_BYTES)
        with memoryview(self._bounce) as whole, whole[: len(into)] as window:
            count = os.preadv(self._descriptor, [window], start)
            # ctypes lets go of the GIL while it copies; assigning a slice would hold it.
            ctypes.memmove(address_of(into), address_of(window), count)
        return count
