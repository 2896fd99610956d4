"""A tensor's memory as bytes, without a copy."""

from __future__ import annotations

import ctypes

import torch


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of any strided tensor in row-major order; the view keeps them alive.

    Makes a copy only of tensors that are not contiguous, or not in host memory.
    """
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return bytes_at(plain.data_ptr(), plain.numel() * plain.element_size(), plain)


def bytes_at(address: int, nbytes: int, owner: object) -> memoryview:
    """Memory that *owner* holds; the view keeps the owner alive."""
    memory = (ctypes.c_ubyte * nbytes).from_address(address)
    memory.owner = owner  # type: ignore[attr-defined]
    return memoryview(memory).cast("B")
