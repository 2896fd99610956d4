"""A ref: which blob an object version is, and the checksums of its chunks."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader.cache.directory import write_whole
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.tree_digest import CHECKSUM_BYTES, chunk_count, tree_digest
from pilotlight_loader.strict_json import StrictJsonError, parse_object

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ref:
    identity: ObjectIdentity
    digest: str
    checksums: tuple[bytes, ...]  # SHA-256 of each chunk


def write_ref(path: Path, ref: Ref) -> None:
    """Atomically, and on disk when this returns. Raises OSError."""
    value = {
        "format": _FORMAT,
        "location": ref.identity.location,
        "etag": ref.identity.etag,
        "nbytes": ref.identity.nbytes,
        "digest": ref.digest,
        "checksums": [checksum.hex() for checksum in ref.checksums],
    }
    write_whole(path, json.dumps(value).encode())


def read_ref(path: Path) -> Ref | None:
    """The ref, or None where there is none or a broken one. Raises OSError."""
    try:
        value = parse_object(path.read_bytes())
    except (FileNotFoundError, StrictJsonError):
        return None
    try:
        return _parse(value)
    except (KeyError, TypeError, ValueError):
        return None


def touch_ref(path: Path) -> None:
    """Note the use. That it was evicted meanwhile, or may not be written, is no error."""
    now_ns = time.time_ns()  # the kernel's own stamp is as coarse as its timer: 4 ms
    with contextlib.suppress(OSError):
        os.utime(path, ns=(now_ns, now_ns))


def _parse(value: dict[str, object]) -> Ref:
    location, etag, nbytes = value["location"], value["etag"], value["nbytes"]
    listed = value["checksums"]
    if value["format"] != _FORMAT or not isinstance(location, str) or not isinstance(etag, str):
        raise ValueError("of another format")
    if type(nbytes) is not int or nbytes < 0 or not isinstance(listed, list):
        raise ValueError("sizes or checksums are not as they were written")
    checksums = tuple(bytes.fromhex(text) for text in listed)
    if len(checksums) != chunk_count(nbytes) or any(len(c) != CHECKSUM_BYTES for c in checksums):
        raise ValueError("not one checksum per chunk")
    digest = tree_digest(nbytes, checksums)
    if digest != value["digest"]:  # also keeps a path out of a file's name
        raise ValueError("the digest is not that of the checksums")
    return Ref(ObjectIdentity(location, etag, nbytes), digest, checksums)
