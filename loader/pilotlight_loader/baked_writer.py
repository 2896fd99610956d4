"""Write a baked file: header, aligned data and checksums, all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight_loader.chunk_file import ChunkFile
from pilotlight_loader.errors import CheckpointError, DiskFullError
from pilotlight_loader.header import LENGTH_BYTES, METADATA_KEY
from pilotlight_loader.layout import CHUNK_BYTES, DATA_ALIGN, Layout, plan_layout, round_up
from pilotlight_loader.manifest import Manifest, chunk_count

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Progress = Callable[[int, int], None]  # bytes written, bytes in all


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as its header entry describes it."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    nbytes: int


def write_baked(
    destination: Path,
    entries: Sequence[Entry],
    manifest: Manifest,
    read: Callable[[str], memoryview],
    *,
    progress: Progress | None = None,
    spare_bytes: int = 0,
) -> None:
    """Write *entries*, in their order, to *destination*, atomically; one writer per destination.

    *read* is asked for each tensor's bytes in turn and holds one tensor at a time. The checksums
    of *manifest* are ignored. Raises DiskFullError, also where fewer than *spare_bytes* would
    stay free, and CheckpointError; ValueError for a tensor of other bytes than its entry says.
    """
    layout = plan_layout([(entry.name, entry.nbytes) for entry in entries])
    described = {entry.name: entry for entry in entries}
    blank = dataclasses.replace(manifest, checksums=(0,) * chunk_count(layout.nbytes))
    blank_header = _encode_header(layout, described, blank)
    part = destination.with_name(destination.name + ".part")
    needed = len(blank_header) + layout.nbytes + spare_bytes
    try:
        _check_space(destination, needed)
        with part.open("wb", buffering=0) as file:
            # The checksums are known at the end: the header is written twice, of one length.
            chunks = ChunkFile(file)
            chunks.write(memoryview(blank_header))
            data = _DataWriter(chunks, layout.nbytes, progress)
            for slot in layout.slots:
                size = slot.end - slot.start
                piece = memoryview(bytes(size)) if slot.is_pad else read(slot.name)
                if (
                    len(piece) != size
                ):  # all that follows would stand elsewhere than the header says
                    raise ValueError(f"{slot.name!r}: {len(piece)} bytes, not the {size} planned")
                data.write(piece)
                del piece  # before the next one is read
            chunks.flush()
            final = dataclasses.replace(manifest, checksums=data.checksums())
            chunks.rewrite(memoryview(_encode_header(layout, described, final)))
            os.fsync(file.fileno())
        part.replace(destination)
        _fsync_directory(destination.parent)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DiskFullError(destination, needed, _free_bytes(destination)) from error
        raise CheckpointError(destination, f"cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


class _DataWriter:
    """Writes the data section and sums it up, chunk by chunk."""

    def __init__(self, file: ChunkFile, total: int, progress: Progress | None) -> None:
        self._file = file
        self._total = total
        self._progress = progress
        self._done = 0
        self._checksums: list[int] = []
        self._crc = 0

    def write(self, data: memoryview) -> None:
        while data:
            room = CHUNK_BYTES - self._done % CHUNK_BYTES
            piece, data = data[:room], data[room:]
            self._file.write(piece)
            self._crc = zlib.crc32(piece, self._crc)
            self._done += len(piece)
            if len(piece) == room:
                self._end_chunk()
            if self._progress is not None:
                self._progress(self._done, self._total)

    def checksums(self) -> tuple[int, ...]:
        """Of all that was written; call it once, at the end."""
        if self._done % CHUNK_BYTES:
            self._end_chunk()
        return tuple(self._checksums)

    def _end_chunk(self) -> None:
        self._checksums.append(self._crc)
        self._crc = 0


def _encode_header(layout: Layout, entries: Mapping[str, Entry], manifest: Manifest) -> bytes:
    """Length and JSON, padded with spaces so that the data begins on DATA_ALIGN."""
    header: dict[str, object] = {METADATA_KEY: manifest.to_metadata()}
    for slot in layout.slots:
        offsets = [slot.start, slot.end]
        if slot.is_pad:
            header[slot.name] = {
                "dtype": "U8",
                "shape": [slot.end - slot.start],
                "data_offsets": offsets,
            }
        else:
            entry = entries[slot.name]
            header[slot.name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": offsets,
            }
    text = json.dumps(header, separators=(",", ":")).encode()
    length = round_up(LENGTH_BYTES + len(text), DATA_ALIGN) - LENGTH_BYTES
    return struct.pack("<Q", length) + text.ljust(length)


def _check_space(destination: Path, needed: int) -> None:
    free = _free_bytes(destination)
    if needed > free:
        raise DiskFullError(destination, needed, free)


def _free_bytes(destination: Path) -> int:
    return shutil.disk_usage(destination.parent).free


def _fsync_directory(directory: Path) -> None:
    # The rename is on disk only when the directory is.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
