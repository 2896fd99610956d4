"""Bake a model's weights: one safetensors file from which attaching is a plain assignment.

The tensors stand in execution order and aligned; ties, checksums and the layout version stand in
the header's metadata. Each 16 MiB has a CRC-32: it is there to find damage, not forgery (the
source's SHA-256 digest is kept for identity), and is more than twice as fast as SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.baked_writer import Entry, Progress, write_baked
from pilotlight_loader.dtypes import dtype_name, stored_shape
from pilotlight_loader.errors import CheckpointError
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.manifest import Manifest, check_extra
from pilotlight_loader.module_tensors import module_tensors


def bake(
    module: nn.Module,
    destination: Path,
    *,
    order: Sequence[str],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> BakedCheckpoint:
    """Write all parameters and buffers of *module* to *destination*, atomically.

    Tensors that *order* does not name follow at the end; *progress* gets bytes written and in all.
    One writer per destination. Raises DiskFullError, UnsupportedDtypeError, CheckpointError;
    ValueError for a name in *order* that the module does not have, or a reserved metadata key.
    """
    check_extra(metadata)
    tensors, ties = _in_order(module, order)
    entries = [_entry(name, tensor, destination) for name, tensor in tensors.items()]
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise CheckpointError(destination, f"{name!r} is on the meta device: nothing to store")
    write_baked(
        destination,
        entries,
        Manifest(ties, (), metadata),
        lambda name: host_bytes(tensors[name]),
        progress=progress,
    )
    return BakedCheckpoint.open(destination)


def planned_entries(module: nn.Module, location: Path | str) -> list[Entry]:
    """What bake() would write, in the module's own order; *module* may be on the meta device.

    Raises UnsupportedDtypeError, CheckpointError, which name *location*.
    """
    return [_entry(name, tensor, location) for name, tensor in _in_order(module, ())[0].items()]


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


def _entry(name: str, tensor: torch.Tensor, destination: Path | str) -> Entry:
    dtype = dtype_name(tensor.dtype, name, destination)
    if tensor.layout != torch.strided:
        raise CheckpointError(destination, f"{name!r} is {tensor.layout}, only strided is stored")
    shape = stored_shape(tensor.dtype, tuple(tensor.shape), name, destination)
    return Entry(name, dtype, shape, tensor.numel() * tensor.element_size())
