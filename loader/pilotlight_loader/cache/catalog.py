"""What a cache's users see of it: entries, listed and removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pilotlight_loader.cache import eviction
from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.eviction import Stored
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.inventory import StoredBlob, StoredPart, take_inventory

_UNKNOWN = ObjectIdentity("", "", 0)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One object version, published or partial."""

    location: str  # empty where that was lost: a part killed before it had a journal
    etag: str
    digest: str | None  # None while partial
    nbytes: int
    present_bytes: int  # fewer than nbytes while partial
    last_used_s: float  # Unix time
    leased: bool  # or, where partial, being filled now

    @property
    def partial(self) -> bool:
        return self.digest is None


@dataclass(frozen=True, slots=True)
class Removal:
    """What went, and what was asked to go but is in use."""

    removed: tuple[CacheEntry, ...]
    in_use: tuple[CacheEntry, ...]
    freed_bytes: int  # versions that share a blob count once


def list_entries(directory: CacheDirectory) -> list[CacheEntry]:
    """The caller holds the cache's lock: to look at a blob is to lock it. Raises OSError."""
    inventory = take_inventory(directory)
    found: list[CacheEntry] = []
    for stored in inventory.oldest_first():
        found += _entries(stored, leased=eviction.is_in_use(directory, stored))
    return sorted(found, key=lambda entry: (entry.location, entry.last_used_s))


def prune_entries(
    directory: CacheDirectory,
    capacity_bytes: int | None,
    unused_for_s: float | None,
    now_s: float,
) -> Removal:
    """The caller holds the cache's lock. Raises OSError."""
    removed, in_use = eviction.prune(
        directory, capacity_bytes=capacity_bytes, unused_for_s=unused_for_s, now_s=now_s
    )
    return _removal(removed, in_use)


def remove_target(directory: CacheDirectory, target: str) -> Removal:
    """The caller holds the cache's lock. Raises OSError."""
    inventory = take_inventory(directory)
    removed: list[Stored] = []
    in_use: list[Stored] = []
    unlinked: list[CacheEntry] = []
    for part in inventory.parts:
        if part.identity is not None and is_under(part.identity.location, target):
            (removed if eviction.remove(directory, part) else in_use).append(part)
    for blob in inventory.blobs:
        matching = [ref for ref in blob.refs if is_under(ref.ref.identity.location, target)]
        if blob.digest == target or (matching and len(matching) == len(blob.refs)):
            (removed if eviction.remove(directory, blob) else in_use).append(blob)
            continue
        for ref in matching:  # another location has the same bytes: they stay for it
            ref.path.unlink(missing_ok=True)
        if matching:
            shared = StoredBlob(
                blob.digest, blob.path, blob.nbytes, blob.last_used_s, tuple(matching)
            )
            unlinked += _entries(shared, leased=False)
    removal = _removal(removed, in_use)
    return Removal((*removal.removed, *unlinked), removal.in_use, removal.freed_bytes)


def is_under(location: str, target: str) -> bool:
    """Whether *target* means *location*: it, or a directory that it is in."""
    return location == target or location.startswith(target.rstrip("/") + "/")


def _removal(removed: Iterable[Stored], in_use: Iterable[Stored]) -> Removal:
    gone = tuple(removed)
    return Removal(
        tuple(entry for stored in gone for entry in _entries(stored, leased=False)),
        tuple(entry for stored in in_use for entry in _entries(stored, leased=True)),
        sum(stored.nbytes for stored in gone),
    )


def _entries(stored: Stored, *, leased: bool) -> list[CacheEntry]:
    if isinstance(stored, StoredPart):
        identity, present = stored.identity or _UNKNOWN, stored.present_bytes
        entry = _entry(identity, None, stored.nbytes, present, stored.last_used_s, leased)
        return [entry]
    if not stored.refs:
        entry = _entry(
            _UNKNOWN, stored.digest, stored.nbytes, stored.nbytes, stored.last_used_s, leased
        )
        return [entry]
    return [
        _entry(ref.ref.identity, stored.digest, stored.nbytes, stored.nbytes, ref.used_s, leased)
        for ref in stored.refs
    ]


def _entry(
    identity: ObjectIdentity,
    digest: str | None,
    nbytes: int,
    present_bytes: int,
    last_used_s: float,
    leased: bool,
) -> CacheEntry:
    return CacheEntry(
        identity.location, identity.etag, digest, nbytes, present_bytes, last_used_s, leased
    )
