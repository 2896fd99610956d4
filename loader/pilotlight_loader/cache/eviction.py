"""Make room, oldest use first, and never what somebody uses. The caller holds the cache's lock."""

from __future__ import annotations

from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.inventory import (
    StoredBlob,
    StoredPart,
    stored_bytes,
    take_inventory,
    take_parts,
)
from pilotlight_loader.cache.lease import try_lock_exclusive
from pilotlight_loader.cache.locks import FileLock, is_held
from pilotlight_loader.cache.refs import read_ref
from pilotlight_loader.cache.space import free_bytes
from pilotlight_loader.errors import CacheFullError, DiskFullError

# A download that nobody resumed for so long will not be: models change faster.
STALE_PART_S = 7 * 24 * 3600.0

Stored = StoredBlob | StoredPart


def make_room(
    directory: CacheDirectory,
    *,
    needed_bytes: int,
    disk_bytes: int,
    capacity_bytes: int | None,
    now_s: float,
) -> None:
    """Evict until *needed_bytes* fit into the capacity and *disk_bytes* onto the disk.

    Raises CacheFullError or DiskFullError, then mostly before anything was evicted; OSError.
    """
    _drop_stale_parts(directory, now_s)
    over_capacity = 0
    if capacity_bytes is not None:
        over_capacity = stored_bytes(directory) + needed_bytes - capacity_bytes
    over_disk = disk_bytes - free_bytes(directory.root)
    shortage = max(over_capacity, over_disk)
    if shortage <= 0:
        return
    inventory = take_inventory(directory)
    idle = [stored for stored in inventory.oldest_first() if not is_in_use(directory, stored)]
    freed = 0
    if sum(stored.nbytes for stored in idle) >= shortage:
        for stored in idle:
            freed += stored.nbytes if remove(directory, stored) else 0
            if freed >= shortage:
                return
    # Not enough is idle, or something was leased between the look and the removal.
    if capacity_bytes is None or over_disk > over_capacity:
        raise DiskFullError(directory.root, disk_bytes, free_bytes(directory.root))
    used = inventory.nbytes - freed
    leased = inventory.nbytes - sum(stored.nbytes for stored in idle)
    raise CacheFullError(
        f"{directory.root}: {needed_bytes} bytes are needed, {max(0, capacity_bytes - used)} of "
        f"{capacity_bytes} are free and {leased} are leased or being filled: give the cache more "
        "room, or end what uses it"
    )


def drop_other_versions(directory: CacheDirectory, identity: ObjectIdentity) -> None:
    """Parts of what *identity*'s object was before: nobody can bring the rest. Raises OSError."""
    for part in take_parts(directory):
        found = part.identity
        if found is not None and found.location == identity.location and found != identity:
            _remove_part(directory, part.key)  # unless somebody is still at it


def prune(
    directory: CacheDirectory,
    *,
    capacity_bytes: int | None,
    unused_for_s: float | None,
    now_s: float,
) -> tuple[list[Stored], list[Stored]]:
    """Remove what was not used for so long, the oldest above the capacity, and stale parts.

    What killed processes left goes as well. The answer is what went, and what would have gone
    but is in use. Raises OSError.
    """
    removed: list[Stored] = list(_drop_stale_parts(directory, now_s))
    _sweep(directory)
    inventory = take_inventory(directory)
    used = inventory.nbytes
    in_use: list[Stored] = []
    for stored in inventory.oldest_first():
        idle_s = now_s - stored.last_used_s
        wanted = (
            (unused_for_s is not None and idle_s >= unused_for_s)
            or (capacity_bytes is not None and used > capacity_bytes)
            or (isinstance(stored, StoredBlob) and not stored.refs)
        )
        if not wanted:
            continue
        if remove(directory, stored):
            used -= stored.nbytes
            removed.append(stored)
        else:
            in_use.append(stored)
    return removed, in_use


def is_in_use(directory: CacheDirectory, stored: Stored) -> bool:
    """Leased, or being filled, by anybody. Raises OSError."""
    if isinstance(stored, StoredPart):
        return is_held(directory.fill_lock(stored.key))
    file = try_lock_exclusive(stored.path)
    if file is None:
        return stored.path.exists()
    file.close()
    return False


def remove(directory: CacheDirectory, stored: Stored) -> bool:
    """False, and nothing happened, where it is in use. Raises OSError."""
    if isinstance(stored, StoredPart):
        return _remove_part(directory, stored.key)
    file = try_lock_exclusive(stored.path)
    if file is None:
        return not stored.path.exists()
    with file:
        stored.path.unlink()  # first: a ref without its blob is a miss, the reverse would be waste
        for ref in stored.refs:
            ref.path.unlink(missing_ok=True)
    return True


def _drop_stale_parts(directory: CacheDirectory, now_s: float) -> list[StoredPart]:
    """Without a look at the blobs: this runs at the start of each fill. Raises OSError."""
    old = [part for part in take_parts(directory) if now_s - part.last_used_s >= STALE_PART_S]
    return [part for part in old if _remove_part(directory, part.key)]


def _sweep(directory: CacheDirectory) -> None:
    """Small files of processes that were killed between two calls. Raises OSError."""
    for path in directory.refs.iterdir():
        ref = read_ref(path) if path.suffix == ".json" else None
        if ref is None or not directory.blob(ref.digest).exists():
            path.unlink(missing_ok=True)
    keys = {path.name.partition(".")[0] for path in directory.fills.iterdir()}
    for key in keys:
        if not directory.part(key).exists():
            _remove_part(directory, key)


def _remove_part(directory: CacheDirectory, key: str) -> bool:
    lock = FileLock.try_take(directory.fill_lock(key))
    if lock is None:
        return False
    try:
        directory.part(key).unlink(missing_ok=True)
        for path in directory.fills.glob(f"{key}.journal*"):
            path.unlink(missing_ok=True)
    finally:
        lock.release(unlink=True)
    return True
