"""A linear layer that also multiplies with a packed weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pilotlight_loader import kernel_layout


class PackedLinear(nn.Linear):
    """nn.Linear in all but that its weight may be packed; then F.linear would refuse it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Linear's name
        # Not as attributes, which nn.Module looks for in three places: 1 to 2 µs a call.
        weight = self._parameters["weight"]
        if weight is not None and kernel_layout.is_packed(weight):
            return kernel_layout.linear(input, weight, self._parameters["bias"])
        return super().forward(input)


def accept_packed(module: nn.Module, weights: Iterable[str]) -> None:
    """Let the layers that own these *weights* take them packed; they stay the same objects.

    Raises ValueError for a weight of anything but a plain nn.Linear.
    """
    for name in weights:
        owner, _, key = name.rpartition(".")
        layer = module.get_submodule(owner)
        if type(layer) not in (nn.Linear, PackedLinear) or key != "weight":
            raise ValueError(f"{name!r} is not the weight of a plain nn.Linear")
        layer.__class__ = PackedLinear  # keeps hooks, names and every reference to it
