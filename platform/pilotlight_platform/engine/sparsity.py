"""2:4 sparse weights in a baked directory: compressed at deploy, taken by a worker's skeleton."""

from __future__ import annotations

from torch import nn

from pilotlight_loader import BakedCheckpoint, CheckpointError
from pilotlight_loader.baked_writer import Progress
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.sparse.convert import compress_baked
from pilotlight_loader.sparse.layers import accept_sparse
from pilotlight_loader.sparse.stored import VALUES_SUFFIX
from pilotlight_platform.engine.quantizing import quantizable_weights


def write_sparse(module: nn.Module, baked: BakedCheckpoint, progress: Progress) -> BakedCheckpoint:
    """Put a file with compressed weights in the place of *baked*, which *module* was baked to.

    Raises LoaderError, also where no linear weight follows the pattern.
    """
    own = baked.tensors.keys() - set(baked.ties.values())
    weights = [
        name
        for name in quantizable_weights(module)
        if name in own and isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Linear)
    ]
    part = baked.path.with_name(f"sparse.{baked.path.name}")
    try:
        if compress_baked(baked, part, weights, progress=progress) is None:
            raise CheckpointError(
                baked.path, "no linear weight of 16 bits is 2:4 sparse: leave sparsity out"
            )
        part.replace(baked.path)
    finally:
        part.unlink(missing_ok=True)
    return BakedCheckpoint.open(baked.path)


def take_sparse(module: nn.Module, baked: BakedCheckpoint) -> None:
    """Make *module*, without weights, take those of *baked*. Raises ValueError if it cannot."""
    dtypes = {}
    for name in baked.sparse:
        info = baked.tensors[name + VALUES_SUFFIX]
        dtypes[name] = torch_dtype(info.dtype, info.name, baked.path)
    accept_sparse(module, baked.sparse, dtypes)
