"""The open readers of one thread, and how many such threads there are."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_loader.sources.source import ByteSource, Reader

# A thread that goes from shard to shard and back keeps these connections or files; 163 shards for
# 64 threads would be 10,000 of them.
MAX_OPEN = 4
# One connection to an object store brings 90 MB/s, so 64 fill 50 Gbit/s, which one Python process
# does not take in anyway.
MAX_READERS = 64


class Readers:
    """Readers by file, the most recently used. Owned by one thread, which closes them."""

    def __init__(self, sources: Mapping[str, ByteSource]) -> None:
        self._sources = sources
        self._open: dict[str, Reader] = {}  # the most recently used stands last

    def get(self, file: str) -> Reader:
        """The reader of *file*, a new one where there is none."""
        reader = self._open.pop(file, None)
        if reader is None:
            reader = self._sources[file].reader()
        self._open[file] = reader
        if len(self._open) > MAX_OPEN:
            self.drop(next(iter(self._open)))
        return reader

    def drop(self, file: str) -> None:
        """Close the reader of *file*: it was aborted, or has failed."""
        reader = self._open.pop(file, None)
        if reader is not None:
            reader.close()

    def close(self) -> None:
        """Close all."""
        for file in tuple(self._open):
            self.drop(file)


def readers_for(sources: Mapping[str, ByteSource], parts: int, asked: int | None) -> int:
    """How many threads: what the sources can use, at most MAX_READERS."""
    wanted = asked or max((source.parallel for source in sources.values()), default=1)
    # A part may be read twice at once.
    return max(1, min(wanted, 2 * parts, MAX_READERS))
