"""What a baked file says of its packed weights, checked before a kernel sees their bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader import kernel_layout
from pilotlight_loader.errors import HeaderError, LayoutVersionError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.kernel_layout import KernelLayout
from pilotlight_loader.strict_json import StrictJsonError, parse_object

STORED_DTYPE = "U8"  # in the file; other readers see one dimension of bytes
_DTYPE = "BF16"
_MAX_PADDING = 4  # a block has 16 to 64 rows or columns
_SMALL_BYTES = 1 << 16  # no need to be strict below
_KEYS = {"shape", "layout"}


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """What the file says of one weight. Not to be believed before resolve()."""

    shape: tuple[int, int]
    digest: str  # of the layout


@dataclass(frozen=True, slots=True)
class PackedTensor(TensorInfo):
    """A weight whose bytes are packed; dtype and shape are those that a module sees."""

    layout: KernelLayout


def encode(entries: Mapping[str, PackedEntry]) -> str:
    """As text for the header's metadata."""
    return json.dumps(
        {name: {"shape": entry.shape, "layout": entry.digest} for name, entry in entries.items()},
        separators=(",", ":"),
    )


def parse(text: str, key: str, path: Path | str) -> dict[str, PackedEntry]:
    """The inverse of encode(). Raises HeaderError, naming the weight."""
    try:
        parsed = parse_object(text.encode("utf-8", "surrogatepass"))
    except StrictJsonError as error:
        raise HeaderError(path, f"broken metadata {key}: {error}") from error
    return {name: _entry(name, value, key, path) for name, value in parsed.items()}


def resolve(
    tensors: Mapping[str, TensorInfo], entries: Mapping[str, PackedEntry], path: Path | str
) -> dict[str, TensorInfo]:
    """*tensors* with those that *entries* name as PackedTensor, for this process's kernel.

    Raises HeaderError for an entry that does not fit its bytes, LayoutVersionError where this
    process would pack a weight differently.
    """
    for name in entries:
        if name not in tensors:
            raise HeaderError(path, f"{name!r} is said to be packed, and is not there")
    return {
        name: _resolve(info, entries[name], path) if name in entries else info
        for name, info in tensors.items()
    }


def _resolve(info: TensorInfo, entry: PackedEntry, path: Path | str) -> PackedTensor:
    if info.dtype != STORED_DTYPE or len(info.shape) != 1:
        raise HeaderError(path, f"{info.name!r} is packed, and {info.dtype}{list(info.shape)}")
    rows, columns = entry.shape
    # Packing pads. Both also bound what layout_of() takes by what the file has.
    too_few = rows * columns * 2 > info.nbytes
    if too_few or kernel_layout.max_nbytes(entry.shape) > _MAX_PADDING * info.nbytes + _SMALL_BYTES:
        raise HeaderError(path, f"{info.name!r}: {info.nbytes} bytes do not fit {entry.shape}")
    layout = kernel_layout.layout_of(entry.shape)
    if layout.digest != entry.digest:
        raise LayoutVersionError(path, f"{info.name!r} is packed for another kernel: bake again")
    if layout.nbytes != info.nbytes:
        raise HeaderError(
            path, f"{info.name!r}: its layout needs {layout.nbytes} bytes, it has {info.nbytes}"
        )
    return PackedTensor(info.name, _DTYPE, entry.shape, info.start, info.end, layout)


def _entry(name: str, value: object, key: str, path: Path | str) -> PackedEntry:
    if not isinstance(value, dict) or value.keys() != _KEYS:
        raise HeaderError(path, f"broken metadata {key}: {name!r} has not {sorted(_KEYS)}")
    shape, digest = value["shape"], value["layout"]
    if not isinstance(digest, str):
        raise HeaderError(path, f"broken metadata {key}: {name!r}: its layout is no string")
    if not isinstance(shape, list) or len(shape) != 2:
        raise HeaderError(path, f"broken metadata {key}: {name!r}: its shape is not [N, K]")
    if not all(type(size) is int and size > 0 for size in shape):
        raise HeaderError(path, f"broken metadata {key}: {name!r}: its shape is {shape}")
    return PackedEntry((shape[0], shape[1]), digest)
