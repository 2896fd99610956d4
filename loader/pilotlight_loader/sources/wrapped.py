"""A source that stands before another one; what is of its own is how it is read."""

from __future__ import annotations

from pilotlight_loader.sources.source import ByteSource, ObjectVersion


class WrappedSource:
    """Passes on what is known of *source*; a subclass adds reader() and is a ByteSource then."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    @property
    def location(self) -> str:
        return self._source.location

    @property
    def version(self) -> ObjectVersion:
        return self._source.version

    @property
    def parallel(self) -> int:
        return self._source.parallel

    @property
    def part_bytes(self) -> int:
        return self._source.part_bytes

    def close(self) -> None:
        """Whoever opened the source closes it."""
