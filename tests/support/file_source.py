"""A ByteSource of a real file, whose reads a test can hold, break and count."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from pilotlight_loader.errors import ReadAbortedError
from pilotlight_loader.sources.source import ObjectVersion

BOUND_S = 20.0  # of every wait in a test


class FileReader:
    """Asks the source's `before_read` first, which may block or raise."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._file = os.open(source.path, os.O_RDONLY)
        self.aborted = threading.Event()
        self.is_deaf = False  # set in a hook: this one read ends well, although aborted

    def read_into(self, start: int, into: memoryview) -> None:
        self._check()
        self._source.note(start, len(into))
        self._source.before_read(self, start, into)
        if not self.is_deaf:
            self._check()
        self.is_deaf = False
        assert os.preadv(self._file, [into], start) == len(into)

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._source.forget()

    def _check(self) -> None:
        if self.aborted.is_set():
            raise ReadAbortedError(self._source.location, "the reader was aborted")


Hook = Callable[[FileReader, int, memoryview], None]


class FileSource:
    """Counts readers and reads."""

    def __init__(
        self,
        path: Path,
        *,
        parallel: int = 2,
        part_bytes: int = 256,
        before_read: Hook | None = None,
    ) -> None:
        self.path = path
        self.location = str(path)
        self.parallel = parallel
        self.part_bytes = part_bytes
        self.before_read = before_read or (lambda reader, start, into: None)
        self.version = ObjectVersion(path.stat().st_size, "1")
        self.reads: list[tuple[int, int]] = []  # (start, bytes), in the order of their begin
        self.open_readers = 0
        self._lock = threading.Lock()

    def reader(self) -> FileReader:
        with self._lock:
            self.open_readers += 1
        return FileReader(self)

    def close(self) -> None:
        """Nothing is held."""

    def note(self, start: int, nbytes: int) -> None:
        with self._lock:
            self.reads.append((start, nbytes))

    def forget(self) -> None:
        with self._lock:
            self.open_readers -= 1

    @property
    def bytes_asked(self) -> int:
        with self._lock:
            return sum(nbytes for _, nbytes in self.reads)


def until_aborted(reader: FileReader) -> None:
    """Hang as a dead connection does, until the reader is aborted."""
    assert reader.aborted.wait(BOUND_S), "nobody aborted the reader"
    raise ReadAbortedError("test", "the reader was aborted")
