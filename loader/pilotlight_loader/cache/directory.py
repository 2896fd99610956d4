"""Where each file of a cache stands, and how small ones are written whole or not at all.

.lock                    who holds it may publish, evict and remove
blobs/<digest>           immutable, 0444; a shared flock on one is a lease
refs/<key>.json          object version -> digest and chunk checksums; its mtime is the last use
fills/<key>.lock         held by the one process that downloads this version
fills/<key>.part         what it has so far, of full size
fills/<key>.journal      which chunks of it are finished
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader.cache.locks import FileLock

# Under this lock the longest work is to unlink what is evicted: well below a second per 100 GB.
LOCK_TIMEOUT_S = 60.0
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """The paths under *root*. Keys and digests are hex: they cannot lead out of it."""

    root: Path

    def create(self) -> None:
        """Each new directory is closed to other users. Raises OSError."""
        for path in (self.root, self.blobs, self.refs, self.fills):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def refs(self) -> Path:
        return self.root / "refs"

    @property
    def fills(self) -> Path:
        return self.root / "fills"

    def blob(self, digest: str) -> Path:
        return self.blobs / digest

    def ref(self, key: str) -> Path:
        return self.refs / f"{key}.json"

    def fill_lock(self, key: str) -> Path:
        return self.fills / f"{key}.lock"

    def part(self, key: str) -> Path:
        return self.fills / f"{key}.part"

    def journal(self, key: str) -> Path:
        return self.fills / f"{key}.journal"

    def remove_fill(self, key: str) -> None:
        """What is there of an object that is not complete. The caller holds its lock. OSError."""
        self.part(key).unlink(missing_ok=True)
        self.journal(key).unlink(missing_ok=True)

    def lock(self) -> FileLock:
        """The lock of the whole cache. Raises CacheError after LOCK_TIMEOUT_S, OSError."""
        return FileLock.take(self.root / ".lock", LOCK_TIMEOUT_S)


def write_whole(path: Path, content: bytes) -> None:
    """Replace *path* by *content*, on disk when this returns. One writer at a time. OSError."""
    temporary = path.with_name(path.name + _TEMPORARY)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """A rename is on disk only when the directory is. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
