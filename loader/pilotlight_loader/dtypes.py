"""The dtypes of safetensors (format of 0.8) and of torch, one to one.

The float8 variants differ in bias and in their special values, so none stands in for another.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pilotlight_loader.errors import UnsupportedDtypeError

_TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in _TORCH_DTYPES.items()}
_BITS: dict[str, int] = {name: dtype.itemsize * 8 for name, dtype in _TORCH_DTYPES.items()}
# Part of the format, but their elements are no whole bytes: torch packs F4 by halving the last
# dimension and has no F6 at all. Refused rather than read as something else.
_SUB_BYTE = frozenset({"F4", "F6_E2M3", "F6_E3M2"})


def dtype_bits(name: str, tensor: str, path: Path | str) -> int:
    """Bits of one element. Raises UnsupportedDtypeError, naming *tensor*."""
    _check(name, tensor, path)
    return _BITS[name]


def torch_dtype(name: str, tensor: str, path: Path | str) -> torch.dtype:
    """The torch dtype of a safetensors dtype. Raises UnsupportedDtypeError, naming *tensor*."""
    _check(name, tensor, path)
    return _TORCH_DTYPES[name]


def dtype_name(dtype: torch.dtype, tensor: str, path: Path | str) -> str:
    """The safetensors dtype of a torch dtype. Raises UnsupportedDtypeError, naming *tensor*."""
    if dtype not in _NAMES:
        raise UnsupportedDtypeError(path, f"{tensor!r} is {dtype}, which safetensors cannot store")
    return _NAMES[dtype]


def _check(name: str, tensor: str, path: Path | str) -> None:
    if name in _BITS:
        return
    if name in _SUB_BYTE:
        raise UnsupportedDtypeError(path, f"{tensor!r} is {name}: sub-byte dtypes are not read")
    raise UnsupportedDtypeError(path, f"{tensor!r} has the unknown dtype {name[:64]!r}")
