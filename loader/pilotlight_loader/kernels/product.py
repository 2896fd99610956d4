"""What a product is written to: as many rows as its kernel writes, which may be more than x has."""

from __future__ import annotations

import torch


def room(x: torch.Tensor, written: int, height: int) -> torch.Tensor:
    """For x [..., K] times a weight of so many rows: [..., height] where *written* are x' own."""
    *outer, width = x.shape
    if written * width == x.numel():
        return x.new_empty(*outer, height)  # half of what torch.empty() takes
    return x.new_empty(written, height)


def filled(x: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """What the kernel wrote to room(), without the rows that x does not have."""
    *outer, width = x.shape
    height = product.shape[-1]
    if product.numel() * width == x.numel() * height:
        return product
    return product[: x.numel() // width].view(*outer, height)
