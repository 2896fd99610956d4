"""Stand-ins for a checkpoint's weights: the right shapes, next to no memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader import kernel_layout
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.packed import PackedTensor


class StandInCheckpoint:
    """Takes a mapped checkpoint's place; all tensors of one shape and dtype share one of zeros."""

    def __init__(self, baked: BakedCheckpoint) -> None:
        self.location = baked.location
        self.infos: Mapping[str, TensorInfo] = baked.tensors
        self.nbytes = 0  # nothing to read

    def tensors(self) -> dict[str, torch.Tensor]:
        """One tensor per name, of its shape and dtype."""
        zeros: dict[tuple[type[TensorInfo], str, tuple[int, ...]], torch.Tensor] = {}
        found = {}
        for name, info in self.infos.items():
            kind = (type(info), info.dtype, info.shape)
            if kind not in zeros:
                zeros[kind] = self._zeros(info)
            found[name] = zeros[kind]
        return found

    def _zeros(self, info: TensorInfo) -> torch.Tensor:
        if isinstance(info, PackedTensor):
            return kernel_layout.zeros(info.layout)
        shape = torch_shape(info.dtype, info.shape, info.name, self.location)
        return torch.zeros(shape, dtype=torch_dtype(info.dtype, info.name, self.location))

    def resident_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""
