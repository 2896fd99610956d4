"""Read and check safetensors headers: an 8-byte little-endian length, JSON, then the tensors.

Nothing in a header is believed before it is checked against the size of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pilotlight_loader.dtypes import dtype_bits
from pilotlight_loader.errors import CheckpointError, HeaderError
from pilotlight_loader.strict_json import StrictJsonError, parse_object

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own cap
MAX_TENSORS = 1_000_000  # the largest unfused mixtures have some 100,000
MAX_NAME_CHARS = 4096
MAX_DIMS = 64  # torch's own limit
MAX_COUNT = 2**63 - 1  # of elements or bytes: what other readers can count to
METADATA_KEY = "__metadata__"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor stands in its file."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    start: int  # absolute, in bytes from the beginning of the file
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header; `tensors` are in file order."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read and check the header of *path*. Raises HeaderError or UnsupportedDtypeError."""
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            prefix = file.read(LENGTH_BYTES)
            length = _header_length(prefix, file_size, path)
            return parse_header(prefix + file.read(length), file_size, path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def parse_header(raw: bytes, file_size: int, path: Path | str) -> Header:
    """Check the header at the beginning of *raw*, the first bytes of a file of *file_size* bytes.

    Raises HeaderError or UnsupportedDtypeError, and names the tensor; *path* is only for messages.
    """
    data_start = LENGTH_BYTES + _header_length(raw, file_size, path)
    if len(raw) < data_start:
        raise HeaderError(path, f"the header ends at byte {data_start}, only {len(raw)} were read")
    try:
        entries = parse_object(raw[LENGTH_BYTES:data_start])
    except StrictJsonError as error:
        raise HeaderError(path, f"broken header: {error}") from error
    metadata = _metadata(entries.pop(METADATA_KEY, {}), path)
    if len(entries) > MAX_TENSORS:
        raise HeaderError(path, f"{len(entries)} tensors; at most {MAX_TENSORS} are read")
    tensors = [_tensor(name, entry, data_start, path) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_coverage(tensors, data_start, file_size, path)
    return Header({tensor.name: tensor for tensor in tensors}, metadata, data_start)


def header_end(raw: bytes, file_size: int, path: Path | str) -> int:
    """Where the header ends, by the first LENGTH_BYTES of a file of *file_size* bytes.

    Raises HeaderError above the cap or the file's size: ask before reading so much.
    """
    return LENGTH_BYTES + _header_length(raw, file_size, path)


def _header_length(raw: bytes, file_size: int, path: Path | str) -> int:
    if len(raw) < LENGTH_BYTES:
        raise HeaderError(path, f"the file is {file_size} bytes, too short for a header")
    (length,) = struct.unpack_from("<Q", raw)
    if length > MAX_HEADER_BYTES:
        raise HeaderError(path, f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if LENGTH_BYTES + length > file_size:
        raise HeaderError(path, f"a header of {length} bytes in a file of {file_size}: truncated?")
    return int(length)


def _metadata(entry: object, path: Path | str) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise HeaderError(path, f"{METADATA_KEY} is not an object")
    for key, value in entry.items():
        if not isinstance(value, str):
            raise HeaderError(path, f"{METADATA_KEY}[{key[:200]!r}] is not a string")
    return entry


def _tensor(name: str, entry: object, data_start: int, path: Path | str) -> TensorInfo:
    if len(name) > MAX_NAME_CHARS:
        raise HeaderError(path, f"a tensor's name has {len(name)} characters: {name[:64]!r}…")
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise HeaderError(path, f"{name!r}: expected an object of {sorted(_ENTRY_KEYS)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise HeaderError(path, f"{name!r}: its dtype is not a string")
    if not _are_counts(shape) or len(shape) > MAX_DIMS:
        raise HeaderError(path, f"{name!r}: its shape is not up to {MAX_DIMS} whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(path, f"{name!r}: data_offsets is not [begin, end]")
    bits = _elements(name, shape, path) * dtype_bits(dtype, name, path)
    begin, end = offsets
    if bits != (end - begin) * 8:
        raise HeaderError(
            path, f"{name!r}: {dtype}{shape} needs {bits // 8} bytes, it has {end - begin}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _are_counts(value: object) -> bool:
    # bool is an int to isinstance, and `true` is no dimension.
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= MAX_COUNT for item in value
    )


def _elements(name: str, shape: Sequence[int], path: Path | str) -> int:
    count = 1
    for size in shape:
        count *= size
        # Also where a later 0 would bring it down again: other readers multiply in 64 bits.
        if count > MAX_COUNT:
            raise HeaderError(path, f"{name!r}: its shape has 2**63 elements or more")
    return count


def _check_coverage(
    tensors: Sequence[TensorInfo], data_start: int, file_size: int, path: Path | str
) -> None:
    """The tensors must cover the data section exactly, as the format demands."""
    if tensors and tensors[0].start != data_start:
        raise HeaderError(path, f"{tensors[0].name!r}: the first tensor does not begin at 0")
    for before, after in pairwise(tensors):
        if after.start < before.end:
            raise HeaderError(path, f"{after.name!r} overlaps {before.name!r}")
        if after.start > before.end:
            raise HeaderError(path, f"there is a hole between {before.name!r} and {after.name!r}")
    expected = tensors[-1].end if tensors else data_start
    if expected > file_size:
        raise HeaderError(
            path, f"the file is {file_size} bytes, the header says {expected}: truncated?"
        )
    if expected < file_size:
        raise HeaderError(
            path, f"the file is {file_size} bytes, the header says {expected}: bytes left over"
        )
