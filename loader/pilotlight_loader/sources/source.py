"""What every place that holds bytes looks like. A new kind of place is one file beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """Pinned when an object is opened; every later read is of exactly this version."""

    nbytes: int
    etag: str  # opaque; of a local file: inode, size and time of its last change


class Reader(Protocol):
    """One connection, or one open file, for one thread at a time."""

    def read_into(self, start: int, into: memoryview) -> None:
        """Fill all of *into* with the bytes from *start*: one attempt, bounded in time.

        Raises TransientReadError where another attempt may help; ObjectChangedError,
        RangeAnswerError, AccessDeniedError, ObjectMissingError where it cannot;
        ReadAbortedError after abort(). What *into* then holds is undefined.
        """

    def abort(self) -> None:
        """From any thread: a running read_into raises ReadAbortedError soon, later ones at once."""

    def close(self) -> None:
        """Idempotent; not while a read runs."""


class ByteSource(Protocol):
    """One object of a pinned version. Thread-safe: as many readers as `parallel` at once."""

    @property
    def location(self) -> str:
        """For messages; never with credentials."""

    @property
    def version(self) -> ObjectVersion: ...

    @property
    def parallel(self) -> int:
        """Readers that this kind of source can use well at once."""

    @property
    def part_bytes(self) -> int:
        """How much one read should ask for."""

    def reader(self) -> Reader:
        """A new reader; it connects at its first read."""

    def close(self) -> None:
        """Idempotent; readers are closed by who made them."""


class Store(Protocol):
    """A place that holds a checkpoint's files under their relative names."""

    @property
    def location(self) -> str: ...

    def open(self, name: str) -> ByteSource:
        """Pin *name*'s present version. Raises ObjectMissingError and other SourceReadErrors."""

    def names(self) -> Sequence[str] | None:
        """The files here, or None where that cannot be asked (plain HTTP)."""

    def close(self) -> None:
        """Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class OpensWithBeginning(Protocol):
    """A store for which the version and the first bytes of an object are one round trip."""

    def open_with_beginning(self, name: str, nbytes: int) -> tuple[ByteSource, bytearray]:
        """As open(), and up to *nbytes* from its beginning; may be none."""
