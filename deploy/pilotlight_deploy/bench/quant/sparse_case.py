"""What 2:4 sparse linear weights of a bf16 checkpoint take when they are attached."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_deploy.sample import SHAPES, write_shape
from pilotlight_loader.sparse.layers import SparseLinear
from pilotlight_platform.engine.packing import WEIGHTS_FILE
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source

_GOAL = 0.57
_BF16_BYTES = 2


def sparse24_figure(home: Path, layers: int = 2) -> Figure:
    """``quant.sparse24.bytes_ratio``; takes *layers* of the bench sample, which are all alike."""
    return figure(
        "quant.sparse24.bytes_ratio", [sparse24_bytes_ratio(home, layers)], "x", goal=_GOAL
    )


def sparse24_bytes_ratio(home: Path, layers: int = 2) -> float:
    """Attached bytes of the linear weights / their bytes in bf16, of a file baked under *home*.

    Of each four neighbours the two smallest are zero. Raises SourceError, CliError.
    """
    directory = home / "bench-quant" / "sparse24"
    shutil.rmtree(directory, ignore_errors=True)
    source, baked = directory / "source", directory / "baked"
    source.mkdir(parents=True)
    baked.mkdir()
    try:
        write_shape(source, replace(SHAPES["bench"], layers=layers))
        _prune(source / WEIGHTS_FILE)
        bake_source(source, baked, dtype="auto", report=lambda *_: None, sparse=True)
        return _attached_ratio(Skeleton.load(baked))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _prune(path: Path) -> None:
    tensors = load_file(path)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            groups = weight.view(-1, 4)
            groups.scatter_(1, groups.abs().topk(2, dim=1, largest=False).indices, 0)
    save_file(tensors, path, {"format": "pt"})


def _attached_ratio(skeleton: Skeleton) -> float:
    replica = Replica.attach(skeleton)
    try:
        layers = [m for m in skeleton.module.modules() if isinstance(m, SparseLinear)]
        attached = sum(m.weight_values.nbytes + m.weight_indices.nbytes for m in layers)
        dense = sum(m.in_features * m.out_features * _BF16_BYTES for m in layers)
    finally:
        replica.detach()
    return attached / dense
