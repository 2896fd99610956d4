"""Files: through the page cache where their pages are in it, past it where they are not."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pilotlight_loader.errors import (
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    ReadAbortedError,
    TransientReadError,
)
from pilotlight_loader.sources.direct_read import MIN_DIRECT_BYTES, DirectFile, direct_span
from pilotlight_loader.sources.location import Location
from pilotlight_loader.sources.os_errors import os_error
from pilotlight_loader.sources.residency import Residency
from pilotlight_loader.sources.source import ObjectVersion, Reader

# On two cores, cached: 2.6-3.2 GB/s with one reader, 3.6-4.4 with two or four, 2.1-3.6 with
# eight. Cold, a virtual disk of 1.2-1.5 GB/s is full with two.
PARALLEL = 4
PART_BYTES = 8 * 1024 * 1024
# An abort is seen between two such pieces; each is one system call without the GIL.
_PIECE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How files are read."""

    # O_DIRECT for what is not in the page cache. The next load finds nothing there either, but
    # neighbours keep their pages, and an NVMe array is read 2 to 10 times faster (llama.cpp
    # #18012; here, on one virtual disk, both are as fast as the disk).
    direct: bool = True
    # Take cold pages that were read buffered out of the page cache again, for who keeps the
    # bytes elsewhere. Not the default: the next load of this file would find nothing there.
    drop_cold_pages: bool = False
    parallel: int = PARALLEL
    part_bytes: int = PART_BYTES


def open_local(location: Location, options: LocalOptions) -> LocalStore:
    """The directory at *location*; it need not be there yet."""
    return LocalStore(Path(location.directory), options)


class LocalStore:
    """A directory. It holds nothing open."""

    def __init__(self, directory: Path, options: LocalOptions | None = None) -> None:
        self.directory = directory
        self._options = options or LocalOptions()

    @property
    def location(self) -> str:
        return str(self.directory)

    def open(self, name: str) -> LocalSource:
        return LocalSource(self.directory / name, options=self._options)

    def names(self) -> Sequence[str]:
        try:
            return sorted(file.name for file in self.directory.iterdir() if file.is_file())
        except OSError as error:
            raise os_error(error, self.location) from error

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class LocalSource:
    """One file, as it is now. *location* is for messages, where a file stands for something."""

    def __init__(
        self, path: Path, *, location: str | None = None, options: LocalOptions | None = None
    ) -> None:
        self.path = path
        self.options = options or LocalOptions()
        self.location = location or str(path)
        try:
            found = path.stat()
        except OSError as error:
            raise os_error(error, self.location) from error
        # A FIFO would be waited for without an end, a directory has no bytes.
        if not stat.S_ISREG(found.st_mode):
            raise ObjectMissingError(self.location, "not a regular file")
        self.version = _version(found)
        # NFS, FUSE, overlayfs and tmpfs have device numbers without a driver. There, O_DIRECT is
        # refused or slow: 0.49 GiB/s where buffered readers get 2.44 (InstantTensor #7).
        self.is_on_disk = os.major(found.st_dev) != 0
        self.residency = Residency(self.version.nbytes)

    @property
    def parallel(self) -> int:
        return self.options.parallel

    @property
    def part_bytes(self) -> int:
        return self.options.part_bytes

    def reader(self) -> Reader:
        return LocalReader(self)

    def close(self) -> None:
        self.residency.close()


class LocalReader:
    """Up to two descriptors of one file, buffered and direct."""

    def __init__(self, source: LocalSource) -> None:
        self._source = source
        self._descriptor = -1
        self._direct: DirectFile | None = None
        self._direct_refused = not (source.options.direct and source.is_on_disk)
        self._aborted = threading.Event()

    def read_into(self, start: int, into: memoryview) -> None:
        """Fill *into*. A local disk that hangs cannot be bounded: the kernel lets nobody go."""
        try:
            self._read(start, into.cast("B"))
        except OSError as error:
            raise os_error(error, self._source.location) from error

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, start: int, into: memoryview) -> None:
        size = self._source.version.nbytes
        if start < 0 or start + len(into) > size:
            raise RangeAnswerError(
                self._source.location,
                f"bytes {start} to {start + len(into)} were asked for, it has {size}",
            )
        if self._descriptor < 0:
            self._descriptor = self._open(0)
        is_cold = self._is_cold(start, len(into))
        skipped = self._read_direct(start, into) if is_cold and not self._direct_refused else None
        if skipped is None:
            self._read_buffered(start, into)
        else:
            first, last = skipped  # [first, last) is there; the edges were not aligned
            self._read_buffered(start, into[: first - start])
            self._read_buffered(last, into[last - start :])
        if is_cold and self._source.options.drop_cold_pages:
            os.posix_fadvise(self._descriptor, start, len(into), os.POSIX_FADV_DONTNEED)
        # 1 µs, against milliseconds for the part: no part is handed out that was read from a
        # file that somebody writes into.
        self._check_version(self._descriptor)

    def _is_cold(self, start: int, nbytes: int) -> bool:
        wanted = not self._direct_refused or self._source.options.drop_cold_pages
        if nbytes < MIN_DIRECT_BYTES:  # a header: not worth a look
            return False
        return wanted and not self._source.residency.is_cached(self._descriptor, start, nbytes)

    def _read_direct(self, start: int, into: memoryview) -> tuple[int, int] | None:
        """Read the aligned middle past the page cache; None where that cannot be."""
        span = direct_span(start, len(into), self._source.version.nbytes)
        if span is None:
            return None
        first, last = span
        try:
            if self._direct is None:
                self._direct = DirectFile(self._open(os.O_DIRECT))
            for at in range(first, last, _PIECE_BYTES):
                self._check_aborted()
                end = min(at + _PIECE_BYTES, last)
                if self._direct.read_into(at, into[at - start : end - start]) != end - at:
                    self._check_version(self._descriptor)
                    raise TransientReadError(self._source.location, f"a short read at byte {at}")
        except OSError as error:
            # overlayfs on some kernels and tmpfs take no O_DIRECT, at open() or at read().
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._direct_refused = True
            return None
        return span

    def _read_buffered(self, start: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            self._check_aborted()
            count = os.preadv(self._descriptor, [into[done : done + _PIECE_BYTES]], start + done)
            if count == 0:  # the end of a file that was longer when it was opened
                raise ObjectChangedError(self._source.location, "the file was truncated")
            done += count

    def _open(self, flags: int) -> int:
        descriptor = os.open(self._source.path, os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            self._check_version(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_version(self, descriptor: int) -> None:
        found = _version(os.fstat(descriptor))
        if found != self._source.version:
            raise ObjectChangedError(
                self._source.location,
                f"the file was changed or replaced while it was read: {self._source.version.etag}"
                f" became {found.etag}",
            )

    def _check_aborted(self) -> None:
        if self._aborted.is_set():
            raise ReadAbortedError(self._source.location, "the reader was aborted")


def _version(found: os.stat_result) -> ObjectVersion:
    tag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
    return ObjectVersion(found.st_size, tag)
