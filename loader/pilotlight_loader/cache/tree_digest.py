"""The digest that names a blob: SHA-256 over its size and the SHA-256 of each chunk. Pure.

A tree of depth one, so that chunks can be hashed out of order and by several threads. One thread
hashes 1.6 GB/s (SHA extensions): a single running hash would hold up a faster link.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from pilotlight_loader.layout import CHUNK_BYTES

CHECKSUM_BYTES = 32
_DOMAIN = b"pilotlight-blob-1\0"  # no digest of another scheme, or of a plain file, is equal


def tree_digest(nbytes: int, checksums: Sequence[bytes]) -> str:
    """The name (hex) of *nbytes* bytes whose chunks have these SHA-256 *checksums*."""
    whole = hashlib.sha256(_DOMAIN + struct.pack("<Q", nbytes))
    for checksum in checksums:
        whole.update(checksum)
    return whole.hexdigest()


def chunk_count(nbytes: int) -> int:
    return -(-nbytes // CHUNK_BYTES)


def chunk_span(index: int, nbytes: int) -> tuple[int, int]:
    """Where chunk *index* of an object of *nbytes* begins and ends."""
    start = index * CHUNK_BYTES
    return start, min(start + CHUNK_BYTES, nbytes)


def is_digest(text: object) -> bool:
    """Whether *text* can name a blob, or a ref: it becomes a file's name."""
    return isinstance(text, str) and len(text) == 64 and all(c in "0123456789abcdef" for c in text)
