"""Give a finished .part file its name, so that a kill at any point loses nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pilotlight_loader.cache.directory import CacheDirectory, fsync_directory
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.cache.refs import Ref, write_ref
from pilotlight_loader.cache.tree_digest import chunk_count, tree_digest
from pilotlight_loader.errors import CacheError


def publish_part(
    directory: CacheDirectory,
    identity: ObjectIdentity,
    part: int,
    checksums: Mapping[int, bytes],
    *,
    drop_pages: bool,
) -> Lease:
    """Sync *part* (a descriptor) and make it the blob of *identity*; the caller holds the fill.

    The ref comes first, then the blob's name. A ref whose blob is not there is a miss, and the
    .part with its journal still serves the next leader; a blob without its ref would be a download
    that nobody finds. *checksums* are those of all chunks, by index. Raises OSError, CacheError.
    """
    ordered = tuple(checksums[index] for index in range(chunk_count(identity.nbytes)))
    ref = Ref(identity, tree_digest(identity.nbytes, ordered), ordered)
    blob, ref_path = directory.blob(ref.digest), directory.ref(identity.key)
    os.fsync(part)
    os.fchmod(part, 0o444)
    if drop_pages:
        os.posix_fadvise(part, 0, 0, os.POSIX_FADV_DONTNEED)
    with directory.lock():
        write_ref(ref_path, ref)
        lease = Lease.take(blob, ref, ref_path)
        if lease is None:  # else another location had the same bytes: that blob stays
            directory.part(identity.key).replace(blob)
            fsync_directory(directory.blobs)
            fsync_directory(directory.fills)
            lease = Lease.take(blob, ref, ref_path)
    if lease is None:
        raise CacheError(f"{blob}: removed while it was published: load it again")
    return lease
