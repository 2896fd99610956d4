"""Write a baked checkpoint again, its 2:4 sparse weights compressed one after the other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.baked_writer import Entry, Progress, write_baked
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.manifest import Manifest
from pilotlight_loader.sparse.pattern import COLUMNS_PER_BYTE, KEPT, compress, is_compressible
from pilotlight_loader.sparse.stored import (
    INDEX_DTYPE,
    INDICES_SUFFIX,
    VALUES_SUFFIX,
    Shape,
    indices_shape,
    values_shape,
)

# Raise it where the same weights are compressed to other bytes.
SPARSITY_VERSION = 1


def sparse_weights(baked: BakedCheckpoint, weights: Collection[str]) -> dict[str, Shape]:
    """Those of *weights* that follow the pattern, and their shapes. Reads them once."""
    found: dict[str, Shape] = {}
    with baked.map() as mapped:
        tensors = mapped.tensors()
        for name in weights:
            if is_compressible(tensors[name]):
                rows, columns = tensors[name].shape
                found[name] = rows, columns
    return found


def compress_baked(
    baked: BakedCheckpoint,
    destination: Path,
    weights: Collection[str],
    *,
    progress: Progress | None = None,
) -> BakedCheckpoint | None:
    """Write *baked* to *destination*, atomically, those *weights* compressed that are 2:4 sparse.

    None, and no file, where none is. *progress* gets bytes written and in all. Raises ValueError
    for a *baked* that is packed, quantized or sparse already, or a weight that is tied or is not
    there; else as write_baked().
    """
    if baked.packed or baked.quantized or baked.sparse:
        raise ValueError(f"{baked.path} is packed, quantized or sparse already")
    unknown = set(weights) - baked.tensors.keys() | set(weights) & set(baked.ties.values())
    if unknown:
        raise ValueError(f"{baked.path}: {', '.join(sorted(unknown)[:8])}: tied, or not there")
    shapes = sparse_weights(baked, weights)
    if not shapes:
        return None
    entries = [e for info in baked.tensors.values() for e in _entries(info, shapes)]
    with baked.map() as mapped:
        tensors = mapped.tensors()
        held: dict[str, torch.Tensor] = {}  # the indices of the weight whose values were written

        def read(name: str) -> memoryview:
            if name in held:
                return host_bytes(held.pop(name))
            weight = name.removesuffix(VALUES_SUFFIX)
            if name in tensors or weight not in shapes:
                return host_bytes(tensors[name])
            values, held[weight + INDICES_SUFFIX] = compress(tensors[weight])
            return host_bytes(values)

        write_baked(
            destination,
            entries,
            Manifest(baked.ties, (), baked.metadata, sparse=shapes),
            read,
            progress=progress,
        )
    return BakedCheckpoint.open(destination)


def _entries(info: TensorInfo, shapes: dict[str, Shape]) -> list[Entry]:
    shape = shapes.get(info.name)
    if shape is None:
        return [Entry(info.name, info.dtype, info.shape, info.nbytes)]
    values, indices = values_shape(shape), indices_shape(shape)
    count = shape[0] * shape[1]
    return [
        Entry(info.name + VALUES_SUFFIX, info.dtype, values, info.nbytes // KEPT),
        Entry(info.name + INDICES_SUFFIX, INDEX_DTYPE, indices, count // COLUMNS_PER_BYTE),
    ]
