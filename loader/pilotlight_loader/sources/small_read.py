"""Read small things, headers and side files, with retries. Weights go through the pipeline."""

from __future__ import annotations

import contextlib

from pilotlight_loader.errors import RangeAnswerError
from pilotlight_loader.sources.retry import RetryPolicy, retried
from pilotlight_loader.sources.source import ByteSource, OpensWithBeginning, Store


def read_range(
    source: ByteSource, start: int, nbytes: int, retry: RetryPolicy | None = None
) -> bytearray:
    """The *nbytes* from *start*; they are allocated only after a check against the object's size.

    Raises a SourceReadError when the attempts are used up, or at once where none can help.
    """
    size = source.version.nbytes
    if start < 0 or nbytes < 0 or start + nbytes > size:
        raise RangeAnswerError(
            source.location, f"bytes {start} to {start + nbytes} were asked for, it has {size}"
        )
    data = bytearray(nbytes)
    with contextlib.closing(source.reader()) as reader:
        retried(lambda: reader.read_into(start, memoryview(data)), retry or RetryPolicy())
    return data


def open_retried(store: Store, name: str, retry: RetryPolicy | None = None) -> ByteSource:
    """`store.open`, tried again as `read_range` does: a store may answer 503 to the first ask."""
    return retried(lambda: store.open(name), retry or RetryPolicy())


def open_with_beginning(
    store: Store, name: str, nbytes: int, retry: RetryPolicy | None = None
) -> tuple[ByteSource, bytearray]:
    """As `open_retried`, and up to *nbytes* from the beginning where that costs nothing more."""
    if not isinstance(store, OpensWithBeginning):
        return open_retried(store, name, retry), bytearray()
    opening = store.open_with_beginning
    return retried(lambda: opening(name, nbytes), retry or RetryPolicy())
