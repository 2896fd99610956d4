"""Look for damage in a published blob, and take a damaged one out of the cache."""

from __future__ import annotations

import os
import threading

from pilotlight_loader.cache.checking import Progress, damaged_chunks
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.inventory import StoredBlob, take_inventory
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.tree_digest import chunk_span
from pilotlight_loader.errors import CacheError, ChecksumError


def verify_blob(
    directory: CacheDirectory,
    digest: str,
    *,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> int:
    """Compare each chunk with its checksum. Raises what Cache.verify() says, OSError."""
    blob = _find(directory, digest)
    if blob is None or not blob.refs:
        raise CacheError(f"{directory.root}: there is no blob {digest} in it")
    expected = blob.refs[0].ref
    if blob.nbytes != expected.identity.nbytes:
        _discard(directory, blob, blob.path.stat())
        raise ChecksumError(
            blob.path,
            f"{blob.nbytes} bytes, it was published with {expected.identity.nbytes}; "
            "it was removed: load it again",
        )
    lease = Lease.take(blob.path, expected, blob.refs[0].path, is_use=False)
    if lease is None:
        raise CacheError(f"{blob.path}: removed while it was to be verified")
    with lease, blob.path.open("rb") as file:
        # Else the memory would be checked, not the disk. Mapped pages stay where they are.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        checksums = dict(enumerate(expected.checksums))
        damaged = damaged_chunks(
            file.fileno(), blob.nbytes, checksums, progress=progress, cancel=cancel
        )
        status = os.fstat(file.fileno())
    if not damaged:
        return blob.nbytes
    _discard(directory, blob, status)
    start, end = chunk_span(damaged[0], blob.nbytes)
    raise ChecksumError(
        blob.path,
        f"chunk {damaged[0]} (bytes {start} to {end}) is damaged, {len(damaged)} of "
        f"{len(checksums)} chunks are; it was removed: load it again",
    )


def _find(directory: CacheDirectory, digest: str) -> StoredBlob | None:
    blobs = take_inventory(directory).blobs
    return next((blob for blob in blobs if blob.digest == digest), None)


def _discard(directory: CacheDirectory, damaged: StoredBlob, status: os.stat_result) -> None:
    """Also while leased: who has it keeps the file, but nobody else shall get it."""
    with directory.lock():
        blob = _find(directory, damaged.digest)
        if blob is None or not os.path.samestat(blob.path.stat(), status):
            return  # removed, or published anew, meanwhile
        blob.path.unlink()
        for ref in blob.refs:
            ref.path.unlink(missing_ok=True)
