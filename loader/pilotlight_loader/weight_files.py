"""Find a checkpoint's weight files in a store, pin them, and read their headers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from pilotlight_loader.errors import (
    AccessDeniedError,
    CheckpointError,
    MissingShardError,
    ObjectMissingError,
    UnsafeCheckpointError,
)
from pilotlight_loader.header import MAX_HEADER_BYTES, Header, header_end, parse_header
from pilotlight_loader.shard_index import CONVERT, PICKLE_SUFFIXES, parse_shard_index
from pilotlight_loader.sources.small_read import open_with_beginning, read_range
from pilotlight_loader.sources.source import ByteSource, Store

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The headers of most files are shorter: one request for each, of a millisecond at 90 MB/s.
FIRST_READ_BYTES = 128 * 1024
# Opening a shard is two round trips of some 20 ms each to an object store; a large checkpoint has
# a hundred shards.
MAX_OPENING_THREADS = 16


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One safetensors file of a pinned version, its header checked."""

    name: str  # relative to the store
    source: ByteSource
    header: Header


def open_weight_files(store: Store, file_name: str | None) -> tuple[WeightFile, ...]:
    """The one file that is meant, or model.safetensors, or else the shards of the index.

    Raises a CheckpointError or SourceReadError that names the cause.
    """
    if file_name is not None:
        return (_open_named(store, file_name),)
    single, denied = _open_if_there(store, SINGLE_FILE)
    if single is not None:  # wins over an index, as in transformers
        return (_with_header(SINGLE_FILE, *single),)
    found, index_denied = _open_if_there(store, INDEX_FILE)
    if found is None:
        raise denied or index_denied or _nothing_to_open(store)
    index, beginning = found
    try:
        weight_map = _read_index(index, beginning)
    finally:
        index.close()
    files = _open_shards(store, sorted(set(weight_map.values()), key=PurePosixPath))
    try:
        _check_against_index(store.location, files, weight_map)
    except BaseException:
        close_sources(files)
        raise
    return files


def close_sources(files: Sequence[WeightFile]) -> None:
    for file in files:
        file.source.close()


def _open_named(store: Store, name: str) -> WeightFile:
    if PurePosixPath(name).suffix in PICKLE_SUFFIXES:
        raise UnsafeCheckpointError(f"{store.location}/{name}", CONVERT)
    try:
        opened = open_with_beginning(store, name, FIRST_READ_BYTES)
    except ObjectMissingError as error:
        raise CheckpointError(error.location, "no such file or directory") from error
    return _with_header(name, *opened)


def _open_if_there(
    store: Store, name: str
) -> tuple[tuple[ByteSource, bytearray] | None, AccessDeniedError | None]:
    try:
        return open_with_beginning(store, name, FIRST_READ_BYTES), None
    except ObjectMissingError:
        return None, None
    except AccessDeniedError as error:
        # What S3 says of a missing key to who may not list the bucket.
        return None, error


def _nothing_to_open(store: Store) -> CheckpointError:
    try:
        names = store.names() or ()
    except ObjectMissingError:
        return CheckpointError(store.location, "no such file or directory")
    pickles = sorted(name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES)
    if pickles:
        return UnsafeCheckpointError(store.location, f"holds only {pickles[0]}: {CONVERT}")
    return CheckpointError(store.location, f"holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _read_index(index: ByteSource, raw: bytearray) -> dict[str, str]:
    nbytes = index.version.nbytes
    if nbytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            index.location, f"an index of {nbytes} bytes; at most {MAX_HEADER_BYTES} are read"
        )
    raw += read_range(index, len(raw), nbytes - len(raw))
    return parse_shard_index(bytes(raw), index.location)


def _open_shards(store: Store, names: Sequence[str]) -> tuple[WeightFile, ...]:
    with ThreadPoolExecutor(
        max_workers=min(len(names), MAX_OPENING_THREADS), thread_name_prefix="pilotlight-headers"
    ) as executor:
        opening = [executor.submit(_open_shard, store, name) for name in names]
        try:
            return tuple(future.result() for future in opening)
        except BaseException:
            for future in opening:
                future.add_done_callback(_close_opened)
            executor.shutdown(wait=False, cancel_futures=True)  # the end of `with` waits
            raise


def _close_opened(opened: Future[WeightFile]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().source.close()


def _open_shard(store: Store, name: str) -> WeightFile:
    try:
        opened = open_with_beginning(store, name, FIRST_READ_BYTES)
    except ObjectMissingError as error:
        raise MissingShardError(
            store.location, f"the index names {name}, which is not there"
        ) from error
    return _with_header(name, *opened)


def _with_header(name: str, source: ByteSource, beginning: bytearray) -> WeightFile:
    try:
        return WeightFile(name, source, _read_header(source, beginning))
    except BaseException:
        source.close()
        raise


def _read_header(source: ByteSource, raw: bytearray) -> Header:
    size = source.version.nbytes
    wanted = min(size, FIRST_READ_BYTES)
    if len(raw) < wanted:
        raw += read_range(source, len(raw), wanted - len(raw))
    end = header_end(bytes(raw[:8]), size, source.location)  # before so much is allocated
    if end > len(raw):
        raw += read_range(source, len(raw), end - len(raw))
    return parse_header(bytes(memoryview(raw)[:end]), size, source.location)


def _check_against_index(
    location: str, files: Sequence[WeightFile], weight_map: dict[str, str]
) -> None:
    holder: dict[str, str] = {}
    for file in files:
        for tensor in file.header.tensors:
            if tensor in holder:
                raise CheckpointError(
                    location, f"{tensor!r} stands in {holder[tensor]} and in {file.name}"
                )
            holder[tensor] = file.name
    for tensor, name in weight_map.items():
        if holder.get(tensor) != name:
            raise CheckpointError(location, f"the index puts {tensor!r} in {name}: not there")
