"""Stand-ins for a checkpoint's weights: the right shapes, next to no memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.header import TensorInfo


class StandInCheckpoint:
    """Takes a mapped checkpoint's place; all tensors of one shape and dtype share one of zeros."""

    def __init__(self, baked: BakedCheckpoint) -> None:
        self.path: Path = baked.path
        self.infos: Mapping[str, TensorInfo] = baked.tensors
        self.nbytes = 0  # nothing to read

    def tensors(self) -> dict[str, torch.Tensor]:
        """One tensor per name, of its shape and dtype."""
        zeros: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        found = {}
        for name, info in self.infos.items():
            kind = (info.dtype, info.shape)
            if kind not in zeros:
                dtype = torch_dtype(info.dtype, name, self.path)
                shape = torch_shape(info.dtype, info.shape, name, self.path)
                zeros[kind] = torch.zeros(shape, dtype=dtype)
            found[name] = zeros[kind]
        return found

    def resident_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""
