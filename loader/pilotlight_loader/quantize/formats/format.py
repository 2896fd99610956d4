"""What a published quantization format is: which weights it stores how, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from pilotlight_loader.quantize.formats.source_tensors import SourceTensors
from pilotlight_loader.quantize.matrix import Matrix, Scheme


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """One weight of a module, and the tensors that a checkpoint stores it in."""

    name: str  # as the module has it: ``model.layers.0.mlp.up_proj.weight``
    shape: tuple[int, int]  # [N, K]
    parts: Mapping[str, str]  # what it is -> the tensor's name; also what serving does not need
    scheme: Scheme | None  # the grid that holds its codes exactly; None: it is read dense
    has_zeros: bool = False  # zero points, or they are not known before they are read


class Format(Protocol):
    """One way to store quantized weights. Every size is checked before anything is made of it."""

    @property
    def name(self) -> str:
        """For messages: ``gptq, 4 bits``."""
        ...

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        """The quantized weights by name; reads headers, and small tensors where they decide.

        Raises QuantizedFormatError that names the tensor: missing, of another shape or dtype,
        out of range, or left over.
        """
        ...

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        """Its values: a Matrix of its scheme, or [N, K] in float32 where it has none.

        Raises QuantizedFormatError for values that are no weight: NaN, infinite, out of range.
        """
        ...


# A weight of these is no weight without its scale. Only torch's float8_e4m3fn is ever read.
_CODES = frozenset({"I8", "U8", "I32", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F4"})


def refuse_left_over(
    tensors: SourceTensors, weights: Mapping[str, StoredWeight], keys: frozenset[str]
) -> None:
    """Raise for a tensor that is no part of a weight, and whose last name is one of *keys*.

    Also for a ``weight`` of codes.
    """
    used = {part for weight in weights.values() for part in weight.parts.values()}
    for name, info in tensors.infos.items():
        key = name.rpartition(".")[2]
        if name in used:
            continue
        if key in keys:
            raise tensors.problem(name, "belongs to no quantized weight")
        if key == "weight" and info.dtype in _CODES:
            raise tensors.problem(name, f"is {info.dtype} without a scale")
