"""What must hold for any bytes that are read as a header, an index or a manifest.

Used by tests, and by scripts/fuzz_header.py with inputs that nobody would think of.
"""

from __future__ import annotations

import json
import re
import struct
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch

from pilotlight_loader.dtypes import DTYPE_BITS, torch_dtype, torch_shape
from pilotlight_loader.errors import LoaderError, UnsupportedDtypeError
from pilotlight_loader.header import METADATA_KEY, Header, TensorInfo, parse_header
from pilotlight_loader.manifest import PREFIX, Manifest
from pilotlight_loader.strict_json import StrictJsonError, parse_object

WHERE = Path("model.safetensors")
MAX_MESSAGE_CHARS = 100_000  # two names of 4096 characters, each written in 10 at worst

# Where safetensors reads a file that is refused here, it is for one of these reasons.
STRICTER = re.compile(
    "|".join(
        [
            r"does not begin with '\{'",  # it skips white space, the format's text does not
            "stands in it twice",  # of two equal keys it takes the last
            "expected an object of",  # it ignores further fields, and takes a list of the three
            "its dtype is not a string",  # it takes {'F32': null}
            f"{METADATA_KEY} is not an object",  # it takes null
            "a tensor's name has",
            "its shape is not up to 64",
            r"its shape has 2\*\*63 bits",  # it multiplies up to 2**64, and by 0 at any time
            # In fields that it ignores:
            "nested too deeply",
            "-0 is a whole number",
            "half of a surrogate",
            "digits",
            "too large for a float",
        ]
    )
)


def encode(header: Header) -> bytes:
    """The file of *header* again, up to its data."""
    entries: dict[str, object] = {METADATA_KEY: dict(header.metadata)} if header.metadata else {}
    for name, info in header.tensors.items():
        offsets = [info.start - header.data_start, info.end - header.data_start]
        entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}
    text = json.dumps(entries, ensure_ascii=False).encode()
    return struct.pack("<Q", len(text)) + text


def read(raw: bytes, file_size: int) -> Header | LoaderError:
    """The header, checked, or why it was refused; any other exception is a defect."""
    try:
        header = parse_header(raw, file_size, WHERE)
    except LoaderError as error:
        return error
    check_accepted(header, file_size)
    return header


def check_header(raw: bytes, file_size: int) -> Header | None:
    """None where it was refused as it should be."""
    found = read(raw, file_size)
    if isinstance(found, Header):
        return found
    assert len(str(found)) < MAX_MESSAGE_CHARS
    return None


def check_accepted(header: Header, file_size: int) -> None:
    """What the rest of the loader relies on."""
    infos = list(header.tensors.values())
    assert [info.name for info in infos] == list(header.tensors)
    assert METADATA_KEY not in header.tensors
    assert (infos[0].start if infos else header.data_start) == header.data_start
    assert (infos[-1].end if infos else header.data_start) == file_size
    assert all(before.end == after.start for before, after in pairwise(infos))
    for info in infos:
        assert type(info.shape) is tuple
        assert all(type(size) is int and size >= 0 for size in info.shape)
        assert info.nbytes * 8 == prod(info.shape) * DTYPE_BITS[info.dtype]
        _check_torch(info)
    again = encode(header)
    moved = len(again) - header.data_start
    assert parse_header(again, file_size + moved, WHERE) == Header(
        {
            info.name: TensorInfo(
                info.name, info.dtype, info.shape, info.start + moved, info.end + moved
            )
            for info in infos
        },
        header.metadata,
        len(again),
    )


def _check_torch(info: TensorInfo) -> None:
    try:
        dtype = torch_dtype(info.dtype, info.name, WHERE)
        shape = torch_shape(info.dtype, info.shape, info.name, WHERE)
    except UnsupportedDtypeError:
        assert info.dtype[:2] in ("F4", "F6")
    else:
        # On meta: torch computes strides and size, which it refuses to where they overflow.
        made = torch.empty(shape, dtype=dtype, device="meta")
        assert made.numel() * made.element_size() == info.nbytes


def check_agreement(raw: bytes) -> Header | None:
    """As check_header, for a whole file, and compared with what safetensors makes of it."""
    ours, theirs = read(raw, len(raw)), _their_views(raw)
    if not isinstance(ours, Header):
        assert len(str(ours)) < MAX_MESSAGE_CHARS
        assert theirs is None or STRICTER.search(str(ours)), f"safetensors takes it: {ours}"
        return None
    assert theirs is not None, "safetensors refuses it"
    assert theirs.keys() == ours.tensors.keys()
    for name, info in ours.tensors.items():
        view = theirs[name]
        assert (view["dtype"], tuple(view["shape"])) == (info.dtype, info.shape)
        assert view["data"] == raw[info.start : info.end]
    return ours


def _their_views(raw: bytes) -> dict[str, Any] | None:
    try:
        return dict(safetensors.deserialize(raw))
    except safetensors.SafetensorError:
        return None


def check_json(raw: bytes) -> dict[str, object] | None:
    """Parse as an index is parsed; what is accepted says the same to a plain JSON reader."""
    try:
        parsed = parse_object(raw)
    except StrictJsonError:
        return None
    assert parsed == json.loads(raw)
    assert parse_object(json.dumps(parsed, ensure_ascii=False).encode()) == parsed
    return parsed


def check_manifest(raw: bytes) -> Manifest | None:
    """Read the metadata that *raw* spells as a baked file's."""
    parsed = check_json(raw) or {}
    metadata = {key: value for key, value in parsed.items() if isinstance(value, str)}
    try:
        manifest = Manifest.from_metadata(metadata, WHERE)
    except LoaderError:
        return None
    assert not any(key.startswith(PREFIX) for key in manifest.extra)
    assert Manifest.from_metadata(manifest.to_metadata(), WHERE) == manifest
    return manifest
