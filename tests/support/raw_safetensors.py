"""safetensors files that the library itself would not write."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch


def save_in_this_order(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """safetensors puts large dtypes first, so that nothing of its own is ever misaligned."""
    kinds = {torch.bool: "BOOL", torch.int8: "I8", torch.float32: "F32", torch.float64: "F64"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = bytes(tensor.flatten().view(torch.uint8).tolist())
        header[name] = {
            "dtype": kinds[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
