"""The parameters and buffers of a module, under every name that they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class ModuleTensor:
    """One registration; a tied tensor has several."""

    name: str  # as in state_dict()
    module: nn.Module
    key: str
    tensor: torch.Tensor
    is_parameter: bool


def module_tensors(module: nn.Module) -> Iterator[ModuleTensor]:
    """Every parameter and buffer, buffers that state_dict() leaves out and ties included."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for key, parameter in owner._parameters.items():
            if parameter is not None:
                yield ModuleTensor(dot + key, owner, key, parameter, True)
        for key, buffer in owner._buffers.items():
            if buffer is not None:
                yield ModuleTensor(dot + key, owner, key, buffer, False)
