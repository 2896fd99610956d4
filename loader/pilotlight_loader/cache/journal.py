"""The journal of a fill: which chunks of its .part file are finished, and their checksums.

A line is written after its chunk, in one append. Each carries a CRC of itself, so a line torn by
a kill or a full disk is ignored. It claims nothing about the disk: whoever resumes reads the
chunks again and compares.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.tree_digest import CHECKSUM_BYTES, chunk_count
from pilotlight_loader.layout import CHUNK_BYTES
from pilotlight_loader.strict_json import StrictJsonError, parse_object

_FORMAT = 1
_MAX_BYTES = 1 << 30  # 11 million chunks; a larger file is not one that was written here


@dataclass(frozen=True, slots=True)
class JournalContent:
    identity: ObjectIdentity
    checksums: Mapping[int, bytes]  # of the finished chunks, by index


class Journal:
    """Appends to one journal; its threads may do so at once."""

    def __init__(self, path: Path, content: JournalContent) -> None:
        """Write *content* in place of whatever is there, whole. Raises OSError."""
        temporary = path.with_name(path.name + ".tmp")
        lines = [_line(index, checksum) for index, checksum in content.checksums.items()]
        temporary.write_bytes(_head(content.identity) + b"".join(lines))
        temporary.replace(path)
        self._file = path.open("ab", buffering=0)

    def add(self, index: int, checksum: bytes) -> None:
        """Chunk *index* is in the .part file. Raises OSError."""
        # O_APPEND: threads do not mix their lines. A short write is a torn line, not a wrong one.
        self._file.write(_line(index, checksum))

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> JournalContent | None:
    """What can be believed of a journal, or None where nothing can. Raises OSError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        head, *lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    identity = _identity(head)
    if identity is None:
        return None
    count = chunk_count(identity.nbytes)
    checksums = {}
    for line in lines:
        parsed = _parse_line(line)
        if parsed is not None and parsed[0] < count:
            checksums[parsed[0]] = parsed[1]
    return JournalContent(identity, checksums)


def _head(identity: ObjectIdentity) -> bytes:
    value = {
        "format": _FORMAT,
        "chunk_bytes": CHUNK_BYTES,
        "location": identity.location,
        "etag": identity.etag,
        "nbytes": identity.nbytes,
    }
    return json.dumps(value).encode()


def _identity(head: bytes) -> ObjectIdentity | None:
    with contextlib.suppress(StrictJsonError):
        value = parse_object(head)
        if value.get("format") != _FORMAT or value.get("chunk_bytes") != CHUNK_BYTES:
            return None
        location, etag, nbytes = (value.get(name) for name in ("location", "etag", "nbytes"))
        if isinstance(location, str) and isinstance(etag, str) and type(nbytes) is int:
            return ObjectIdentity(location, etag, nbytes) if nbytes >= 0 else None
    return None


def _line(index: int, checksum: bytes) -> bytes:
    plain = f"{index} {checksum.hex()}".encode()
    # The line break stands in front: what follows a torn line is a line of its own.
    return b"\n%s %08x" % (plain, zlib.crc32(plain))


def _parse_line(line: bytes) -> tuple[int, bytes] | None:
    plain, _, crc = line.rpartition(b" ")
    with contextlib.suppress(ValueError):
        if int(crc, 16) != zlib.crc32(plain):
            return None
        index, _, checksum = plain.partition(b" ")
        parsed = int(index), bytes.fromhex(checksum.decode("ascii"))
        if parsed[0] >= 0 and len(parsed[1]) == CHECKSUM_BYTES:
            return parsed
    return None
