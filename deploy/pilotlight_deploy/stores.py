"""From what the user typed to the place that holds it. The one seam to the kinds of places."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pilotlight_loader.errors import (
    LocationError,
    ObjectChangedError,
    ObjectMissingError,
    ReadAbortedError,
    SourceReadError,
)
from pilotlight_loader.sources.source import ByteSource, ObjectVersion, Reader, Store


class NoRetries:
    """Files of this machine do not get better by trying again."""

    def delay_s(
        self, attempt: int, error: SourceReadError, random: Callable[[], float]
    ) -> float | None:
        return None


RETRIES = NoRetries()


def open_location(text: str) -> tuple[Store, str | None]:
    """The store at *text*, and the one file of it that is meant, if it is one.

    Raises LocationError.
    """
    if "://" in text:
        raise LocationError(text, "only directories and files of this machine can be pulled yet")
    path = Path(text).absolute()
    if path.is_file():
        return _Directory(path.parent), path.name
    return _Directory(path), None


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)

    def open(self, name: str) -> ByteSource:
        return _File(self._path / name)

    def names(self) -> Sequence[str]:
        try:
            return sorted(file.name for file in self._path.iterdir() if file.is_file())
        except OSError as error:
            raise ObjectMissingError(self.location, error.strerror or str(error)) from error

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _File:
    parallel = 4
    part_bytes = 8 * 1024 * 1024

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        try:
            self.version = _version(path.stat())
        except OSError as error:
            raise ObjectMissingError(self.location, error.strerror or str(error)) from error

    def reader(self) -> Reader:
        return _FileReader(self)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _FileReader:
    source: _File

    def __post_init__(self) -> None:
        self._aborted = threading.Event()

    def read_into(self, start: int, into: memoryview) -> None:
        try:
            with self.source.path.open("rb", buffering=0) as file:
                self._read(file.fileno(), start, into)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SourceReadError(self.source.location, reason) from error

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, descriptor: int, start: int, into: memoryview) -> None:
        while into:
            if self._aborted.is_set():
                raise ReadAbortedError(self.source.location, "aborted")
            count = os.preadv(descriptor, [into], start)
            if count == 0:
                break
            into, start = into[count:], start + count
        if into or _version(os.fstat(descriptor)) != self.source.version:
            raise ObjectChangedError(self.source.location, "the file was changed while it was read")


def _version(found: os.stat_result) -> ObjectVersion:
    return ObjectVersion(found.st_size, f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}")
