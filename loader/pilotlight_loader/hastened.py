"""Modules that compute as this CPU does it soonest; their layers stay the same objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from pilotlight_loader import rotary, square_norm, wide_product
from pilotlight_loader.kernels import chosen
from pilotlight_loader.square_norm import SquareNorm

Class = type[nn.Module]


def hasten(module: nn.Module) -> list[tuple[nn.Module, Class]]:
    """Give layers that have something sooner another class; those, and what they were.

    Compiles what they need, off the way of requests. Some tenths of a second.
    """
    changed: list[tuple[nn.Module, Class]] = []
    if wide_product.lacks_kernels():
        wide_product.prepare()
        changed.extend((layer, nn.Linear) for layer in wide_product.hasten(module))
    if any(tensor.dtype == torch.bfloat16 for tensor in module.parameters()):
        for layer in module.modules():
            sooner = _sooner(layer)
            if sooner is not None:
                changed.append((layer, type(layer)))
                layer.__class__ = sooner
    return changed


@contextlib.contextmanager
def hastened(module: nn.Module) -> Iterator[None]:
    """Let it compute so; its layers are as before afterwards."""
    changed = hasten(module)
    try:
        yield
    finally:
        for layer, before in changed:
            layer.__class__ = before


def _sooner(layer: nn.Module) -> Class | None:
    if "forward" in vars(layer):  # another one, for this object only
        return None
    if square_norm.is_plain(layer):
        return SquareNorm if chosen.bfloat_norm() is not None else None
    turning = rotary.sooner(type(layer))
    return turning if turning is not None and chosen.bfloat_rotary() is not None else None
