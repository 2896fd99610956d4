"""A source of which an earlier attempt has left a part on disk."""

from __future__ import annotations

from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.errors import CacheError
from pilotlight_loader.sources.source import ByteSource, Reader
from pilotlight_loader.sources.wrapped import WrappedSource


class ResumedSource(WrappedSource):
    """*source*, but for what *filling* had at its start: that is read from the disk."""

    def __init__(self, source: ByteSource, filling: Filling) -> None:
        super().__init__(source)
        self._filling = filling
        self._ranges = filling.resumed()

    def is_on_disk(self, start: int, end: int) -> bool:
        """Whether bytes [start, end) are from the earlier attempt."""
        return any(known.start <= start and end <= known.end for known in self._ranges)

    def reader(self) -> Reader:
        return _ResumedReader(self._source.reader(), self._filling)


class _ResumedReader:
    def __init__(self, reader: Reader, filling: Filling) -> None:
        self._reader = reader
        self._filling = filling
        self._ranges = filling.resumed()

    def read_into(self, start: int, into: memoryview) -> None:
        end = start + into.nbytes
        if any(known.start <= start and end <= known.end for known in self._ranges):
            try:
                return self._filling.read_into(start, into)
            except CacheError:  # the disk's trouble is not the load's: the source has it too
                self._ranges = []
        self._reader.read_into(start, into)

    def abort(self) -> None:
        self._reader.abort()

    def close(self) -> None:
        self._reader.close()
