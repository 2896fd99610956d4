"""Open a baked checkpoint: one safetensors file in execution order, aligned, with checksums."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight_loader import kernel_layout, packed
from pilotlight_loader.errors import (
    CheckpointError,
    ChecksumError,
    HeaderError,
    LayoutVersionError,
)
from pilotlight_loader.header import Header, TensorInfo, read_header
from pilotlight_loader.layout import CHUNK_BYTES, DATA_ALIGN, PAD_PREFIX, TENSOR_ALIGN
from pilotlight_loader.manifest import Manifest, chunk_count
from pilotlight_loader.mapping import MappedCheckpoint
from pilotlight_loader.packed import PackedTensor
from pilotlight_loader.quantize import stored
from pilotlight_loader.quantize.stored import StoredMatrix
from pilotlight_loader.sparse import stored as sparse_stored


@dataclass(frozen=True, slots=True)
class BakedCheckpoint:
    """A checked baked file; opening reads its header, never its tensors.

    A packed weight is listed with the dtype and shape that it has in a module; its layout is what
    this process's kernel wants. Its *bytes* are the file's, and any bytes make some weight.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]  # in execution order, without pads
    ties: Mapping[str, str]  # alias -> the name under which the tensor is stored
    metadata: Mapping[str, str]  # what bake() was given
    nbytes: int  # of the whole file
    data_start: int
    checksums: tuple[int, ...]
    quantized: Mapping[str, StoredMatrix] = field(default_factory=dict)  # by the weight's name
    sparse: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # [N, K] of 2:4 weights

    @property
    def location(self) -> str:
        """For messages."""
        return str(self.path)

    @property
    def packed(self) -> Mapping[str, PackedTensor]:
        """The weights that only the kernel can read."""
        return {n: t for n, t in self.tensors.items() if isinstance(t, PackedTensor)}

    @classmethod
    def open(cls, path: Path) -> BakedCheckpoint:
        """Raises LayoutVersionError for other files, HeaderError for a broken one.

        LayoutVersionError also for weights that are packed for another kernel than this process's.
        """
        header = read_header(path)
        tensors, manifest = baked_tensors(header, path)
        return cls(
            path=path,
            tensors=tensors,
            ties=manifest.ties,
            metadata=manifest.extra,
            nbytes=_file_bytes(header),
            data_start=header.data_start,
            checksums=manifest.checksums,
            quantized=manifest.quantized,
            sparse=manifest.sparse,
        )

    def map(self) -> MappedCheckpoint:
        """Map the file. Raises CheckpointError where it has changed its size since."""
        return MappedCheckpoint(self.path, self.tensors, self.nbytes)

    def verify(self) -> None:
        """Read all data again. Raises ChecksumError naming the first chunk that differs."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.data_start)
                for number, expected in enumerate(self.checksums):
                    if zlib.crc32(file.read(CHUNK_BYTES)) != expected:
                        start = self.data_start + number * CHUNK_BYTES
                        raise ChecksumError(
                            self.path,
                            f"chunk {number} of {len(self.checksums)}, at byte {start}, is damaged",
                        )
        except OSError as error:
            raise CheckpointError(self.path, f"cannot be read: {error.strerror}") from error


def baked_tensors(header: Header, path: Path | str) -> tuple[dict[str, TensorInfo], Manifest]:
    """The tensors of a baked file in execution order, without pads, and its manifest.

    Raises as BakedCheckpoint.open().
    """
    manifest = Manifest.from_metadata(header.metadata, path)
    tensors = {n: t for n, t in header.tensors.items() if not n.startswith(PAD_PREFIX)}
    _check_alignment(header, tensors, path)
    if manifest.kernel is not None:
        _check_kernel(manifest.kernel, path)
        tensors = packed.resolve(tensors, manifest.packed, path)
    stored.check(tensors, manifest.quantized, path)
    sparse_stored.check(tensors, manifest.sparse, path)
    for alias, name in manifest.ties.items():
        if alias in tensors or name not in tensors:
            raise HeaderError(path, f"{alias!r} cannot be tied to {name!r}")
    if len(manifest.checksums) != chunk_count(_file_bytes(header) - header.data_start):
        raise HeaderError(path, f"{len(manifest.checksums)} checksums do not fit its size")
    return tensors, manifest


def _file_bytes(header: Header) -> int:
    return max((t.end for t in header.tensors.values()), default=header.data_start)


def _check_alignment(header: Header, tensors: Mapping[str, TensorInfo], path: Path | str) -> None:
    if header.data_start % DATA_ALIGN:
        raise HeaderError(path, f"its data begins at {header.data_start}, not on {DATA_ALIGN}")
    for tensor in tensors.values():
        if tensor.start % TENSOR_ALIGN:
            raise HeaderError(path, f"{tensor.name!r} does not stand on {TENSOR_ALIGN} bytes")


def _check_kernel(kernel: str, path: Path | str) -> None:
    ours = kernel_layout.kernel_id()
    if kernel != ours:
        raise LayoutVersionError(
            path, f"packed for {kernel[:64]!r}, the kernel here is {ours}: bake again"
        )
