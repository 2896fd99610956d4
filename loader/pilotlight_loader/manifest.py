"""What a baked file says about itself, in the metadata of its safetensors header."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight_loader import packed
from pilotlight_loader.errors import HeaderError, LayoutVersionError
from pilotlight_loader.layout import CHUNK_BYTES, LAYOUT_VERSION
from pilotlight_loader.packed import PackedEntry
from pilotlight_loader.quantize import stored
from pilotlight_loader.quantize.stored import StoredMatrix
from pilotlight_loader.sparse import stored as sparse_stored
from pilotlight_loader.strict_json import StrictJsonError, parse_object

PREFIX = "pilotlight."
_VERSION = PREFIX + "layout"
_TIES = PREFIX + "ties"
_CHECKSUMS = PREFIX + "crc32"
_KERNEL = PREFIX + "kernel"
_PACKED = PREFIX + "packed"
_QUANTIZED = PREFIX + "quantized"
_SPARSE = PREFIX + "sparse"
_CRC = struct.Struct(">I")  # eight hex digits each
# transformers refuses safetensors files that do not say which framework wrote them.
_FORMAT = {"format": "pt"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ties, checksums, which weights are packed, quantized or sparse, and the caller's metadata."""

    ties: Mapping[str, str]  # alias -> the name under which the tensor is stored
    checksums: tuple[int, ...]  # CRC-32 of each CHUNK_BYTES of data, in file order
    extra: Mapping[str, str]
    kernel: str | None = None  # whose layouts the packed weights have; None: none is packed
    packed: Mapping[str, PackedEntry] = field(default_factory=dict)
    quantized: Mapping[str, StoredMatrix] = field(default_factory=dict)  # by the weight's name
    sparse: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # [N, K] of 2:4 weights

    def to_metadata(self) -> dict[str, str]:
        """Header metadata; its length depends on the number of checksums, not on their values."""
        return {
            **_FORMAT,
            **self.extra,
            _VERSION: str(LAYOUT_VERSION),
            _TIES: json.dumps(dict(self.ties), sort_keys=True),
            **({_KERNEL: self.kernel, _PACKED: packed.encode(self.packed)} if self.kernel else {}),
            **({_QUANTIZED: stored.encode(self.quantized)} if self.quantized else {}),
            **({_SPARSE: sparse_stored.encode(self.sparse)} if self.sparse else {}),
            _CHECKSUMS: b"".join(map(_CRC.pack, self.checksums)).hex(),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path | str) -> Manifest:
        """The inverse. Raises LayoutVersionError, or HeaderError for a damaged entry."""
        version = metadata.get(_VERSION)
        if version is None:
            raise LayoutVersionError(path, "not a baked checkpoint: its header has no layout")
        if version != str(LAYOUT_VERSION):
            raise LayoutVersionError(
                path, f"baked in layout {version[:32]}, this is layout {LAYOUT_VERSION}: bake again"
            )
        kernel = metadata.get(_KERNEL)
        if (kernel is None) != (_PACKED not in metadata):
            raise HeaderError(path, f"{_KERNEL} and {_PACKED} stand in its metadata only together")
        return cls(
            ties=_parse_ties(metadata.get(_TIES, ""), path),
            checksums=_parse_checksums(metadata.get(_CHECKSUMS, ""), path),
            extra={
                key: value
                for key, value in metadata.items()
                if not key.startswith(PREFIX) and key not in _FORMAT
            },
            kernel=kernel,
            packed={} if kernel is None else packed.parse(metadata[_PACKED], _PACKED, path),
            quantized=stored.parse(metadata.get(_QUANTIZED, "{}"), _QUANTIZED, path),
            sparse=sparse_stored.parse(metadata[_SPARSE], _SPARSE, path)
            if _SPARSE in metadata
            else {},
        )


def is_baked(metadata: Mapping[str, str]) -> bool:
    """Whether a file with this header metadata was written by bake()."""
    return _VERSION in metadata


def chunk_count(nbytes: int) -> int:
    """How many checksums *nbytes* of data have."""
    return -(-nbytes // CHUNK_BYTES)


def check_extra(extra: Mapping[str, str]) -> None:
    """Raises ValueError where the caller's metadata would hide the manifest's own."""
    for key in extra:
        if key.startswith(PREFIX) or key in _FORMAT:
            raise ValueError(f"the metadata key {key!r} is reserved")


def _parse_ties(text: str, path: Path | str) -> dict[str, str]:
    try:
        parsed = parse_object(text.encode("utf-8", "surrogatepass"))
    except StrictJsonError as error:
        raise HeaderError(path, f"broken metadata {_TIES}: {error}") from error
    ties: dict[str, str] = {}
    for alias, name in parsed.items():
        if not isinstance(name, str):
            raise HeaderError(path, f"broken metadata {_TIES}: {alias!r} is tied to no name")
        ties[alias] = name
    return ties


def _parse_checksums(text: str, path: Path | str) -> tuple[int, ...]:
    try:
        return tuple(crc for (crc,) in _CRC.iter_unpack(bytes.fromhex(text)))
    except (ValueError, struct.error) as error:
        raise HeaderError(path, f"broken metadata {_CHECKSUMS}: {error}") from error
