"""Bake a baked file again, with its linear weights in the layout that this CPU's kernel wants."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pilotlight_loader import kernel_layout
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.baked_writer import Entry, Progress, write_baked
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.kernel_layout import KernelLayout
from pilotlight_loader.manifest import Manifest
from pilotlight_loader.packed import STORED_DTYPE, PackedEntry

# A layout pads N and K to whole blocks: a router of 8 rows would become 8 times as large.
_MAX_GROWTH = 1 / 16


def bake_packed(
    baked: BakedCheckpoint,
    destination: Path,
    *,
    weights: Collection[str],
    progress: Progress | None = None,
    spare_bytes: int = 0,
) -> BakedCheckpoint | None:
    """Write *baked* to *destination* with those *weights* packed that do not grow much by it.

    None, and no file, where there is none or kernel_id() is None. One packed weight is in memory
    at a time. Raises ValueError for a weight that is no bf16 matrix, or
    a packed *baked*; else as write_baked().
    """
    if baked.packed:
        raise ValueError(f"{baked.path} is packed already")
    kernel = kernel_layout.kernel_id()
    if kernel is None:
        return None
    layouts = {name: _layout(baked.tensors[name]) for name in weights}
    layouts = {n: la for n, la in layouts.items() if _growth(baked.tensors[n], la) <= _MAX_GROWTH}
    if not layouts:
        return None
    entries = [_entry(info, layouts.get(info.name)) for info in baked.tensors.values()]
    packed = {n: PackedEntry(layout.shape, layout.digest) for n, layout in layouts.items()}
    with baked.map() as mapped:
        tensors = mapped.tensors()

        def read(name: str) -> memoryview:
            pack = kernel_layout.pack if name in layouts else host_bytes
            return pack(tensors[name])

        write_baked(
            destination,
            entries,
            Manifest(baked.ties, (), baked.metadata, kernel, packed),
            read,
            progress=progress,
            spare_bytes=spare_bytes,
        )
    return BakedCheckpoint.open(destination)


def _layout(info: TensorInfo) -> KernelLayout:
    if info.dtype != "BF16" or len(info.shape) != 2 or not info.nbytes:
        raise ValueError(f"{info.name!r} is {info.dtype}{list(info.shape)}: not packable")
    return kernel_layout.layout_of((info.shape[0], info.shape[1]))


def _growth(info: TensorInfo, layout: KernelLayout) -> float:
    return layout.nbytes / info.nbytes - 1


def _entry(info: TensorInfo, layout: KernelLayout | None) -> Entry:
    if layout is None:
        return Entry(info.name, info.dtype, info.shape, info.nbytes)
    return Entry(info.name, STORED_DTYPE, (layout.nbytes,), layout.nbytes)
