"""What a baked file says of its quantized weights, checked before a kernel sees their bytes.

A weight ``a.weight`` is stored as ``a.weight_codes`` and ``a.weight_scales``: plain tensors, so a
mapping of the file is what the layer multiplies with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pilotlight_loader.errors import HeaderError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.quantize import int4_layout, tile_layout, trellis_layout
from pilotlight_loader.quantize.matrix import Coding, Scheme
from pilotlight_loader.strict_json import StrictJsonError, parse_object

Device = Literal["cpu", "cuda"]  # whose kernels a layout is for
CODES_SUFFIX = "_codes"
SCALES_SUFFIX = "_scales"
_CODE_DTYPES: Mapping[Coding, str] = {"int8": "I8", "int4": "U8", "fp8": "F8_E4M3", "trellis": "U8"}
HALVES = ("int4", "trellis")  # kinds with two codes in a byte
_SCALE_DTYPES = frozenset({"BF16", "F16", "F32"})
_KEYS = {"kind", "shape", "group", "block"}
_BLOCKS = (*int4_layout.BLOCKS, tile_layout.BLOCK)
_GROUPS = (32, 64, 128, 256)  # of torch's kernel, and of ours


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """How one weight is stored. *block* is that of 4-bit codes' layout, 0 for others: plain rows.

    Blocks of 64 and 32 rows are for CPUs (int4_layout.py), tiles of 8 for CUDA (tile_layout.py).
    A trellis has blocks of 32 everywhere, as its kernels have.
    """

    scheme: Scheme
    shape: tuple[int, int]  # [N, K] of the weight
    block: int = 0

    @property
    def code_dtype(self) -> str:
        """As safetensors spells it."""
        return _CODE_DTYPES[self.scheme.kind]

    @property
    def codes_shape(self) -> tuple[int, int]:
        rows, columns = self.shape
        return (rows, columns // 2 if self.scheme.kind in HALVES else columns)

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """int4: [groups, N, 2] of scale and zero; of a trellis [groups, N]; else [N]."""
        rows, columns = self.shape
        if self.scheme.kind == "int4":
            return (self.scheme.groups(columns), rows, 2)
        if self.scheme.kind == "trellis":
            return (self.scheme.groups(columns), rows)
        return (rows,)

    def check(self) -> None:
        """Raises ValueError for what no layer could multiply with."""
        rows, columns = self.shape
        if rows < 1 or columns < 1:
            raise ValueError(f"its shape is {list(self.shape)}")
        if self.scheme.kind not in HALVES:
            if self.scheme.group or self.block:
                raise ValueError(f"{self.scheme.kind} has neither groups nor blocks here")
            return
        blocks = _BLOCKS if self.scheme.kind == "int4" else (trellis_layout.BLOCK,)
        if self.block not in blocks or rows % self.block:
            raise ValueError(f"{rows} rows are not in blocks of {self.block}")
        if self.scheme.group not in _GROUPS or columns % self.scheme.group:
            raise ValueError(f"{columns} columns are not in groups of {self.scheme.group}")


def encode(matrices: Mapping[str, StoredMatrix]) -> str:
    """As text for the header's metadata."""
    return json.dumps(
        {
            name: {
                "kind": m.scheme.kind,
                "shape": list(m.shape),
                "group": m.scheme.group,
                "block": m.block,
            }
            for name, m in matrices.items()
        },
        separators=(",", ":"),
    )


def parse(text: str, key: str, path: Path | str) -> dict[str, StoredMatrix]:
    """The inverse of encode(). Raises HeaderError, naming the weight."""
    try:
        parsed = parse_object(text.encode("utf-8", "surrogatepass"))
    except StrictJsonError as error:
        raise HeaderError(path, f"broken metadata {key}: {error}") from error
    return {name: _matrix(name, value, key, path) for name, value in parsed.items()}


def check(
    tensors: Mapping[str, TensorInfo], matrices: Mapping[str, StoredMatrix], path: Path | str
) -> None:
    """Raises HeaderError where codes or scales are missing, or others than *matrices* says."""
    for name, matrix in matrices.items():
        if name in tensors:
            raise HeaderError(path, f"{name!r} is said to be quantized, and is there")
        codes, scales = tensors.get(name + CODES_SUFFIX), tensors.get(name + SCALES_SUFFIX)
        if codes is None or scales is None:
            raise HeaderError(path, f"{name!r} is said to be quantized, and has no codes or scales")
        if (codes.dtype, codes.shape) != (matrix.code_dtype, matrix.codes_shape):
            raise HeaderError(path, f"{codes.name!r} is {codes.dtype}{list(codes.shape)}")
        if scales.dtype not in _SCALE_DTYPES or scales.shape != matrix.scales_shape:
            raise HeaderError(path, f"{scales.name!r} is {scales.dtype}{list(scales.shape)}")


def _matrix(name: str, value: object, key: str, path: Path | str) -> StoredMatrix:
    try:
        if not isinstance(value, dict) or value.keys() != _KEYS:
            raise ValueError(f"has not {sorted(_KEYS)}")
        shape, kind = value["shape"], value["kind"]
        if kind not in get_args(Coding):
            raise ValueError(f"its kind is {kind!r:.32}")
        numbers = [*shape, value["group"], value["block"]] if isinstance(shape, list) else []
        if len(numbers) != 4 or not all(type(number) is int for number in numbers):
            raise ValueError("its shape, group or block is no integer")
        matrix = StoredMatrix(Scheme(kind, numbers[2]), (numbers[0], numbers[1]), numbers[3])
        matrix.check()
    except ValueError as error:
        raise HeaderError(path, f"broken metadata {key}: {name!r}: {error}") from error
    return matrix
