"""Memory for what a product makes on its way, used again by every product of a thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch

_ALIGNED_BYTES = 64


class _Memory(threading.local):
    """A thread's own. Kept, as fresh memory would be mapped and zeroed by the kernel each time."""

    def __init__(self) -> None:
        self.tensors: dict[torch.dtype, torch.Tensor] = {}
        self.block = torch.empty(0, dtype=torch.uint8, device="cpu")
        self.address = self.nbytes = 0


_MINE = _Memory()


def scratch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Uninitialized; valid until this thread asks for the next one of that dtype."""
    needed = math.prod(shape)
    buffer = _MINE.tensors.get(dtype)
    if buffer is None or len(buffer) < needed:
        with torch.inference_mode(False):  # a tensor born in it could be written only in it
            buffer = _MINE.tensors[dtype] = torch.empty(needed, dtype=dtype, device="cpu")
    return buffer[:needed].view(*shape)


def scratch_address(nbytes: int) -> int:
    """Of uninitialized memory at a multiple of 64, valid until this thread asks for the next one.

    For kernels that take addresses: a tensor and its views take 4 µs.
    """
    mine = _MINE
    if mine.nbytes < nbytes:
        mine.block = torch.empty(nbytes + _ALIGNED_BYTES, dtype=torch.uint8, device="cpu")
        mine.address = -(-mine.block.data_ptr() // _ALIGNED_BYTES) * _ALIGNED_BYTES
        mine.nbytes = nbytes
    return mine.address
