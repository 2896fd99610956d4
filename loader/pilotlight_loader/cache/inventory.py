"""What is in a cache directory, as found by looking: values only, nothing is changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from os import stat_result
from pathlib import Path

from pilotlight_loader.cache.directory import CacheDirectory
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.journal import read_journal
from pilotlight_loader.cache.refs import Ref, read_ref
from pilotlight_loader.cache.tree_digest import chunk_span, is_digest


@dataclass(frozen=True, slots=True)
class StoredRef:
    ref: Ref
    path: Path
    used_s: float  # Unix time


@dataclass(frozen=True, slots=True)
class StoredBlob:
    digest: str
    path: Path
    nbytes: int
    last_used_s: float
    refs: tuple[StoredRef, ...]  # none: left by a removal that was killed, nobody can ask for it


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A fill that is not published, with or without a living leader."""

    key: str
    nbytes: int  # reserved for it
    present_bytes: int  # in finished chunks
    last_used_s: float
    identity: ObjectIdentity | None  # None: killed before its journal was written


@dataclass(frozen=True, slots=True)
class Inventory:
    blobs: tuple[StoredBlob, ...]
    parts: tuple[StoredPart, ...]

    @property
    def nbytes(self) -> int:
        return sum(blob.nbytes for blob in self.blobs) + sum(part.nbytes for part in self.parts)

    def oldest_first(self) -> list[StoredBlob | StoredPart]:
        """In the order in which they may be evicted."""
        return sorted((*self.blobs, *self.parts), key=lambda stored: stored.last_used_s)


def take_inventory(directory: CacheDirectory) -> Inventory:
    """Without a lock what vanishes meanwhile is left out. Raises OSError."""
    refs: defaultdict[str, list[StoredRef]] = defaultdict(list)
    for path, status in _files(directory.refs, ".json"):
        ref = read_ref(path)
        if ref is not None:
            refs[ref.digest].append(StoredRef(ref, path, status.st_mtime))
    blobs = [
        StoredBlob(
            path.name,
            path,
            status.st_size,
            max((ref.used_s for ref in refs[path.name]), default=status.st_mtime),
            tuple(refs[path.name]),
        )
        for path, status in _files(directory.blobs, "")
    ]
    return Inventory(tuple(blobs), take_parts(directory))


def take_parts(directory: CacheDirectory) -> tuple[StoredPart, ...]:
    """Only the fills. Raises OSError."""
    files = _files(directory.fills, ".part")
    return tuple(_part(directory, path.stem, status) for path, status in files)


def stored_bytes(directory: CacheDirectory) -> int:
    """What an inventory's nbytes would be, without reading a file. Raises OSError."""
    files = (*_files(directory.blobs, ""), *_files(directory.fills, ".part"))
    return sum(status.st_size for _, status in files)


def present_bytes(directory: CacheDirectory, key: str) -> int:
    """Bytes in finished chunks of the fill *key*; 0 where there is none. Raises OSError."""
    content = read_journal(directory.journal(key))
    if content is None:
        return 0
    spans = (chunk_span(index, content.identity.nbytes) for index in content.checksums)
    return sum(end - start for start, end in spans)


def _part(directory: CacheDirectory, key: str, status: stat_result) -> StoredPart:
    content = read_journal(directory.journal(key))
    identity = None if content is None else content.identity
    present = present_bytes(directory, key)
    return StoredPart(key, status.st_size, present, status.st_mtime, identity)


def _files(folder: Path, suffix: str) -> Iterator[tuple[Path, stat_result]]:
    for path in sorted(folder.iterdir()):
        if path.suffix == suffix and is_digest(path.stem):
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue
