"""Read and check safetensors headers: an 8-byte little-endian length, JSON, then the tensors.

Nothing in a header is believed before it is checked against the size of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from operator import attrgetter
from pathlib import Path

from pilotlight_loader.dtypes import DTYPE_BITS, dtype_bits
from pilotlight_loader.errors import CheckpointError, HeaderError, UnsupportedDtypeError
from pilotlight_loader.strict_json import StrictJsonError, parse_object

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own cap
MAX_TENSORS = 1_000_000  # the largest unfused mixtures have some 100,000
MAX_NAME_CHARS = 4096
MAX_DIMS = 64  # torch's own limit
MAX_COUNT = 2**63 - 1  # of bits of a tensor, of bytes of a file: what others can count to
METADATA_KEY = "__metadata__"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_INT = frozenset({int})

_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor stands in its file."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]  # in elements, also of F4; torch_shape() says what torch makes of it
    start: int  # absolute, in bytes from the beginning of the file
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class _EntryError(ValueError):
    """What is wrong with one entry; _entry_error adds the tensor's name."""


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header; `tensors` are in file order.

    Checked of each tensor is where it stands and that its size fits, in bits. That torch lacks
    its dtype (F6) is said by torch_dtype() when it is wanted: the others can be read without it.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read and check the header of *path*. Raises HeaderError or UnsupportedDtypeError."""
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            first = file.read(LENGTH_BYTES + 1)
            length = _header_length(first, file_size, path)
            if length and first[LENGTH_BYTES:] != b"{":  # before 100 MB of anything are read
                raise HeaderError(path, "broken header: it does not begin with '{'")
            file.seek(0)
            return parse_header(file.read(LENGTH_BYTES + length), file_size, path)
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
        entries = parse_object(raw[LENGTH_BYTES:data_start], partial(_compact, {}))
    except StrictJsonError as error:
        raise HeaderError(path, f"broken header: {error}") from error
    metadata = _metadata(entries.pop(METADATA_KEY, {}), path)
    tensors = _tensors(entries, data_start, path)
    tensors.sort(key=attrgetter("start", "end"))
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


def _tensors(entries: Mapping[str, object], data_start: int, path: Path | str) -> list[TensorInfo]:
    if len(entries) > MAX_TENSORS:
        raise HeaderError(path, f"{len(entries)} tensors; at most {MAX_TENSORS} are read")
    tensors = []
    for name, entry in entries.items():
        if len(name) > MAX_NAME_CHARS:
            raise HeaderError(path, f"a tensor's name has {len(name)} characters: {name[:64]!r}…")
        if type(entry) is not tuple:
            raise _entry_error(name, entry, path)
        dtype, shape, begin, end = entry
        tensors.append(TensorInfo(name, dtype, shape, data_start + begin, data_start + end))
    return tensors


def _compact(shapes: dict[_Shape, _Shape], entry: dict[str, object]) -> object:
    """A correct entry as (dtype, shape, begin, end); anything else as it is, JSON has no tuples.

    Done while the JSON is read, and with equal shapes made one: 100,000 dicts of two lists each,
    alive at once, cost as much in garbage collection as reading them does.
    """
    try:
        if entry.keys() == _ENTRY_KEYS:
            dtype, shape, begin, end = _checked(entry)
            return dtype, shapes.setdefault(shape, shape), begin, end
    except _EntryError:
        pass  # _entry_error finds it again, and knows the tensor's name
    return entry


def _checked(entry: dict[str, object]) -> tuple[str, _Shape, int, int]:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str:
        raise _EntryError("its dtype is not a string")
    # The exact type, because bool is an int too and `true` is no dimension. The length comes
    # first: a product of millions of sizes would take minutes.
    if type(shape) is not list or len(shape) > MAX_DIMS or not _INT.issuperset(map(type, shape)):
        raise _EntryError(f"its shape is not up to {MAX_DIMS} whole numbers")
    if type(offsets) is not list or len(offsets) != 2 or not _INT.issuperset(map(type, offsets)):
        raise _EntryError("data_offsets is not [begin, end]")
    begin, end = offsets
    if not 0 <= begin <= end <= MAX_COUNT:
        raise _EntryError("data_offsets is not [begin, end]")
    if dtype not in DTYPE_BITS:
        raise _EntryError("its dtype is unknown")
    bits = _bits(shape, DTYPE_BITS[dtype])
    if bits % 8:
        raise _EntryError(f"{dtype}{shape} needs {bits} bits, which are no whole bytes")
    if bits != (end - begin) * 8:
        raise _EntryError(f"{dtype}{shape} needs {bits // 8} bytes, it has {end - begin}")
    return dtype, tuple(shape), begin, end


def _bits(shape: list[int], element_bits: int) -> int:
    if shape and min(shape) < 0:
        raise _EntryError(f"its shape is not up to {MAX_DIMS} whole numbers")
    bits = prod(shape) * element_bits
    # Sizes of 0 do not count for the limit: other readers multiply in 64 bits, torch computes
    # the strides of an empty tensor too.
    if (bits or prod(size or 1 for size in shape) * element_bits) > MAX_COUNT:
        raise _EntryError("its shape has 2**63 bits or more")
    return bits


def _entry_error(name: str, entry: object, path: Path | str) -> CheckpointError:
    """What is wrong with an entry that _compact left as it was."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        return HeaderError(path, f"{name!r}: expected an object of {sorted(_ENTRY_KEYS)}")
    try:
        if isinstance(entry["dtype"], str):
            dtype_bits(entry["dtype"], name, path)
        _checked(entry)
    except UnsupportedDtypeError as error:
        return error
    except _EntryError as error:
        return HeaderError(path, f"{name!r}: {error}")
    raise AssertionError("the entry is correct")


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
