"""Memory for dequantized parts of a weight, used again by every product of a thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch

_LOCAL = threading.local()


def scratch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Uninitialized; valid until this thread asks for the next one of that dtype.

    Kept, because fresh memory of this size would be mapped and zeroed by the kernel each time.
    """
    buffers: dict[torch.dtype, torch.Tensor] = _LOCAL.__dict__.setdefault("buffers", {})
    needed = math.prod(shape)
    buffer = buffers.get(dtype)
    if buffer is None or len(buffer) < needed:
        with torch.inference_mode(False):  # a tensor born in it could be written only in it
            buffer = buffers[dtype] = torch.empty(needed, dtype=dtype, device="cpu")
    return buffer[:needed].view(*shape)
