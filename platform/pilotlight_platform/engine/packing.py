"""Which weights are packed for the CPU's kernel, and which baked file a worker attaches.

Beside ``model.safetensors``, which any tool reads, a deploy may put ``model.<kernel>.safetensors``
with the same tensors, the linear weights among them packed. A worker whose kernel has no such file
attaches the first one: another CPU or another torch is slower until the next deploy, never wrong.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pilotlight_loader import BakedCheckpoint, LoaderError, kernel_layout
from pilotlight_loader.bake_packed import bake_packed
from pilotlight_loader.baked_writer import Progress
from pilotlight_loader.module_tensors import module_tensors
from pilotlight_loader.packed_linear import PackedLinear, accept_packed
from pilotlight_platform.engine.quantizing import take_quantized
from pilotlight_platform.engine.sparsity import take_sparse
from pilotlight_platform.engine.weight_readers import directly_read

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
# The packed file is a convenience: it must not take the room that `pilotlight up` asks for.
_SPARE_BYTES = 1 << 30


def packed_path(directory: Path) -> Path | None:
    """Where the file for this process's kernel is, or would be; None if nothing is packed here."""
    kernel = kernel_layout.kernel_id()
    return None if kernel is None else directory / f"model.{kernel}.safetensors"


def write_packed(
    directory: Path, baked: BakedCheckpoint, module: nn.Module, progress: Progress
) -> BakedCheckpoint | None:
    """Write *baked* beside itself with packed weights; None if nothing in it is worth packing.

    Raises LoaderError, and leaves no file.
    """
    path = packed_path(directory)
    if path is None:
        return None
    # Two weights may also be tied in the file alone, where they were the same memory.
    own = baked.tensors.keys() - set(baked.ties.values())
    weights = [name for name in packable_weights(module) if name in own]
    try:
        return bake_packed(
            baked, path, weights=weights, progress=progress, spare_bytes=_SPARE_BYTES
        )
    except LoaderError:
        path.unlink(missing_ok=True)  # written, and then not fit to be opened
        raise


def open_packed(directory: Path, module: nn.Module, plain: BakedCheckpoint) -> BakedCheckpoint:
    """What a worker attaches to *module*, which is made to take it: *plain*, or better."""
    if plain.quantized:
        take_quantized(module, plain)
        return plain
    if plain.sparse:
        take_sparse(module, plain)
        return plain
    path = packed_path(directory)
    if path is None or not path.is_file():
        _log_unused(directory, path)
        return plain
    try:
        packed = BakedCheckpoint.open(path)
    except LoaderError as error:
        logger.warning("packed_weights_refused reason=%s", error)
        return plain
    # Both hold for what the same code has written; transformers may have changed since.
    if _content(packed) != _content(plain) or not packed.packed.keys() <= set(
        packable_weights(module)
    ):
        logger.warning("packed_weights_refused reason=%s: does not fit the model", path)
        return plain
    accept_packed(module, packed.packed)
    return packed


def packable_weights(module: nn.Module) -> list[str]:
    """Weights that a packed product can stand in for: nobody but their own nn.Linear reads them.

    Not those that are tied (an embedding looks up plain rows) or read by the model's own code.
    """
    entries = list(module_tensors(module))
    uses = Counter(id(entry.tensor) for entry in entries)
    try:
        read = directly_read(module)
    except OSError:
        return []
    return [
        entry.name
        for entry in entries
        if type(entry.module) in (nn.Linear, PackedLinear)
        and entry.key == "weight"
        and entry.tensor.dtype == torch.bfloat16
        and (entry.module.bias is None or entry.module.bias.dtype == torch.bfloat16)
        and uses[id(entry.tensor)] == 1
        and read.isdisjoint(entry.name.split(".")[:-1])  # `proj` may be a list that holds it
    ]


def _content(baked: BakedCheckpoint) -> tuple[Any, ...]:
    """What a module sees of a checkpoint."""
    tensors = {name: (info.dtype, info.shape) for name, info in baked.tensors.items()}
    return tensors, dict(baked.ties), dict(baked.metadata)


def _log_unused(directory: Path, path: Path | None) -> None:
    others = sorted(other.name for other in directory.glob("model.*.safetensors"))
    if others:
        wanted = "none" if path is None else path.name
        logger.warning("packed_weights_unused wanted=%s there=%s", wanted, ",".join(others))
