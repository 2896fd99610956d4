"""Bake a model's weights: one safetensors file from which attaching is a plain assignment.

The tensors stand in execution order and aligned; ties, checksums and the layout version stand in
the header's metadata. Each 16 MiB has a CRC-32: it is there to find damage, not forgery (the
source's SHA-256 digest is kept for identity), and is more than twice as fast as SHA-256.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.chunk_file import ChunkFile
from pilotlight_loader.dtypes import dtype_name, stored_shape
from pilotlight_loader.errors import CheckpointError, DiskFullError
from pilotlight_loader.header import LENGTH_BYTES, METADATA_KEY
from pilotlight_loader.layout import CHUNK_BYTES, DATA_ALIGN, Layout, plan_layout, round_up
from pilotlight_loader.manifest import Manifest, check_extra, chunk_count
from pilotlight_loader.module_tensors import module_tensors

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def bake(
    module: nn.Module,
    destination: Path,
    *,
    order: Sequence[str],
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> BakedCheckpoint:
    """Write all parameters and buffers of *module* to *destination*, atomically.

    Tensors that *order* does not name follow at the end; *progress* gets bytes written and in all.
    One writer per destination. Raises DiskFullError, UnsupportedDtypeError, CheckpointError;
    ValueError for a name in *order* that the module does not have, or a reserved metadata key.
    """
    check_extra(metadata)
    tensors, ties = _in_order(module, order)
    for name, tensor in tensors.items():
        _check_storable(name, tensor, destination)
    layout = plan_layout([(name, _nbytes(tensor)) for name, tensor in tensors.items()])
    blank = Manifest(ties, (0,) * chunk_count(layout.nbytes), metadata)
    blank_header = _encode_header(layout, tensors, blank, destination)
    part = destination.with_name(destination.name + ".part")
    needed = len(blank_header) + layout.nbytes
    try:
        _check_space(destination, needed)
        with part.open("wb", buffering=0) as file:
            # The checksums are known at the end: the header is written twice, of one length.
            chunks = ChunkFile(file)
            chunks.write(memoryview(blank_header))
            data = _DataWriter(chunks, layout.nbytes, progress)
            for slot in layout.slots:
                if slot.is_pad:
                    data.write(memoryview(bytes(slot.end - slot.start)))
                else:
                    data.write_tensor(tensors[slot.name])
            chunks.flush()
            manifest = Manifest(ties, data.checksums(), metadata)
            chunks.rewrite(memoryview(_encode_header(layout, tensors, manifest, destination)))
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
    return BakedCheckpoint.open(destination)


class _DataWriter:
    """Writes the data section and sums it up, chunk by chunk."""

    def __init__(
        self, file: ChunkFile, total: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._file = file
        self._total = total
        self._progress = progress
        self._done = 0
        self._checksums: list[int] = []
        self._crc = 0

    def write_tensor(self, tensor: torch.Tensor) -> None:
        # Makes a copy only of tensors that are not contiguous, or not in host memory.
        plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        buffer = (ctypes.c_ubyte * _nbytes(plain)).from_address(plain.data_ptr())
        self.write(memoryview(buffer).cast("B"))

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


def _in_order(
    module: nn.Module, order: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors to store by name, in file order, and the ties (alias -> stored name)."""
    named = {entry.name: entry.tensor for entry in module_tensors(module)}
    unknown = [name for name in order if name not in named]
    if unknown:
        raise ValueError(f"the module has no {', '.join(map(repr, unknown[:8]))}")
    stored: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    name_of: dict[object, str] = {}
    for name in dict.fromkeys((*order, *named)):
        first = name_of.setdefault(_identity(named[name]), name)
        if first == name:
            stored[name] = named[name]
        else:
            ties[name] = first
    return stored, ties


def _identity(tensor: torch.Tensor) -> object:
    """Equal for tensors that are the same bytes seen in the same way: those are tied."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _check_storable(name: str, tensor: torch.Tensor, destination: Path) -> None:
    dtype_name(tensor.dtype, name, destination)
    if tensor.is_meta:
        raise CheckpointError(destination, f"{name!r} is on the meta device: nothing to store")
    if tensor.layout != torch.strided:
        raise CheckpointError(destination, f"{name!r} is {tensor.layout}, only strided is stored")


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _encode_header(
    layout: Layout, tensors: Mapping[str, torch.Tensor], manifest: Manifest, path: Path
) -> bytes:
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
            tensor = tensors[slot.name]
            header[slot.name] = {
                "dtype": dtype_name(tensor.dtype, slot.name, path),
                "shape": list(stored_shape(tensor.dtype, tuple(tensor.shape), slot.name, path)),
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
