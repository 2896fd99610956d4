"""The dtypes of safetensors (format of 0.8) and of torch, one to one.

The float8 variants differ in bias and in their special values, so none stands in for another.
A dtype that torch lacks still has a size: its file can be opened, and the tensor is refused by
name when it is asked for, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "F4": torch.float4_e2m1fn_x2,  # two elements in each of torch's
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
_PACKED = "F4"  # the only dtype of which one torch element holds two
_PER_PACKED_ELEMENT = 2

# Of one element. Less than a byte for some, so that sizes are counted in bits.
DTYPE_BITS: Mapping[str, int] = {
    **{name: dtype.itemsize * 8 for name, dtype in _TORCH_DTYPES.items()},
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


def dtype_bits(name: str, tensor: str, path: Path | str) -> int:
    """Bits of one element of any dtype of the format. Raises UnsupportedDtypeError, naming it."""
    if name not in DTYPE_BITS:
        raise UnsupportedDtypeError(path, f"{tensor!r} has the unknown dtype {name[:64]!r}")
    return DTYPE_BITS[name]


def torch_dtype(name: str, tensor: str, path: Path | str) -> torch.dtype:
    """The torch dtype of a safetensors dtype. Raises UnsupportedDtypeError, naming *tensor*."""
    dtype_bits(name, tensor, path)
    if name not in _TORCH_DTYPES:
        raise UnsupportedDtypeError(
            path, f"{tensor!r} is {name}: torch {torch.__version__} has no 6-bit floats"
        )
    return _TORCH_DTYPES[name]


def torch_shape(
    name: str, shape: tuple[int, ...], tensor: str, path: Path | str
) -> tuple[int, ...]:
    """The shape that torch gives a tensor of dtype *name*: with F4 the last dimension is halved.

    Raises UnsupportedDtypeError where that dimension is odd: torch cannot split a byte.
    """
    if name != _PACKED:
        return shape
    *rows, columns = shape  # F4 without dimensions would be half a byte: no header has it
    if columns % _PER_PACKED_ELEMENT:
        raise UnsupportedDtypeError(
            path, f"{tensor!r} is {name}{list(shape)}: torch packs F4 in pairs, {columns} is odd"
        )
    return (*rows, columns // _PER_PACKED_ELEMENT)


def stored_shape(
    dtype: torch.dtype, shape: tuple[int, ...], tensor: str, path: Path | str
) -> tuple[int, ...]:
    """The inverse of torch_shape: what a header says of a torch tensor.

    Raises UnsupportedDtypeError for F4 without dimensions: there is none to double.
    """
    if _NAMES.get(dtype) != _PACKED:
        return shape
    if not shape:
        raise UnsupportedDtypeError(path, f"{tensor!r} is {dtype} without dimensions: reshape it")
    return (*shape[:-1], shape[-1] * _PER_PACKED_ELEMENT)


def dtype_name(dtype: torch.dtype, tensor: str, path: Path | str) -> str:
    """The safetensors dtype of a torch dtype. Raises UnsupportedDtypeError, naming *tensor*."""
    if dtype not in _NAMES:
        raise UnsupportedDtypeError(path, f"{tensor!r} is {dtype}, which safetensors cannot store")
    return _NAMES[dtype]
