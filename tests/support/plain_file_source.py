"""A real file as a ByteSource, which a test can make slow, broken or changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from pilotlight_loader.errors import ReadAbortedError
from pilotlight_loader.sources.source import ObjectVersion, Reader


class FileSource:
    """One file. *before_read* is called with the start of each read, and may raise or wait."""

    parallel = 2
    part_bytes = 5 * 1024 * 1024  # never on the chunk grid

    def __init__(
        self, path: Path, etag: str = "v1", before_read: Callable[[int], None] = lambda start: None
    ) -> None:
        self.path = path
        self.location = str(path)
        self.version = ObjectVersion(path.stat().st_size, etag)
        self.before_read = before_read
        self.readers: list[FileReader] = []

    def reader(self) -> Reader:
        reader = FileReader(self)
        self.readers.append(reader)
        return reader

    def close(self) -> None:
        """Nothing is held."""


class FileReader:
    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._descriptor = os.open(source.path, os.O_RDONLY)
        self._aborted = threading.Event()
        self.closed = False

    def read_into(self, start: int, into: memoryview) -> None:
        self._source.before_read(start)
        if self._aborted.is_set():
            raise ReadAbortedError(self._source.location, "aborted")
        assert os.preadv(self._descriptor, [into], start) == len(into)

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        self.closed = True
