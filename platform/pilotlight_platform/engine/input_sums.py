"""What GPTQ needs to know of a layer's inputs: sums of x xᵀ, one for all weights that read x."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pilotlight_loader.quantize.inverse_root import inverse_root


class InputSums:
    """Of one layer: queries, keys and values read one tensor, as gate and up do."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # by weight: the one under whose name its sum stands
        self._sums: dict[str, torch.Tensor] = {}  # [K, K], float32
        self._roots: dict[str, torch.Tensor] = {}  # in the memory of the sums
        self._last: tuple[str, torch.Tensor, int] | None = None  # read by whom, in which version

    @contextmanager
    def summing(self, prefix: str, layer: nn.Module, weights: Container[str]) -> Iterator[None]:
        """Add up what those of *weights* read that linear layers of *layer* have, while it runs;
        *prefix* is its name."""
        hooks = [
            module.register_forward_pre_hook(self._adding(f"{prefix}.{name}.weight"))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and f"{prefix}.{name}.weight" in weights
        ]
        try:
            yield
        finally:
            self._last = None
            for hook in hooks:
                hook.remove()

    def take_root(self, name: str) -> torch.Tensor | None:
        """inverse_root() of the sum that weight *name* read, to be asked for once; it is forgotten
        with the last weight that reads it. None: it read nothing. Raises ValueError as that does.
        """
        owner = self._owners.pop(name, None)
        if owner is None:
            return None
        if owner not in self._roots:
            self._roots[owner] = inverse_root(self._sums.pop(owner))
        is_last = owner not in self._owners.values()
        return self._roots.pop(owner) if is_last else self._roots[owner]

    def _adding(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._add(name, args[0])

        return add

    def _add(self, name: str, read: torch.Tensor) -> None:
        if self._last is not None and self._last[1] is read and self._last[2] == read._version:
            owner = self._last[0]
        else:
            owner = name
            self._last = (name, read, read._version)
        known = self._owners.setdefault(name, owner)
        if known == owner != name:
            return
        if known not in (owner, name):  # it has read the same until now
            self._owners[name] = name
            self._sums[name] = self._sums[known].clone()
        x = read.reshape(-1, read.shape[-1]).float()
        if name not in self._sums:
            self._sums[name] = torch.zeros(x.shape[1], x.shape[1])
        self._sums[name].addmm_(x.t(), x)
